export { type ExperimentSettings, falsifiers } from "./plan.js";
export { type ResultRow, readResults, runExperiment } from "./run.js";
export { type ArmSummary, type FalsifierVerdict, summarise } from "./summary.js";
