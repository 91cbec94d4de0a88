export { claimFindings, type Finding, falsifierFindings } from "./findings.js";
export { allCells, type Cell, cellName, type ExperimentSettings, falsifiers } from "./plan.js";
export { type ResultRow, readResults } from "./results.js";
export { runExperiment } from "./run.js";
export { type ArmSummary, summarise } from "./summary.js";
export { type TuningPoint, tunedSettings, tunePpo } from "./tuning.js";
