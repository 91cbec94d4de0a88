export { STAGES, ways } from "./efficiency.js";
export { type Finding, findings, totalSeconds } from "./findings.js";
export { arms, type ExperimentSettings, expectations, rowsOfSeed, type TestName, tests } from "./plan.js";
export { type ResultRow, readResults } from "./results.js";
export { runExperiment } from "./run.js";
export { type SeenScenes, seenScenes } from "./seen.js";
export { type ArmSummary, summarise } from "./summary.js";
