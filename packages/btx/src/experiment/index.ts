export { activeParameters, type Cost } from "./cost.js";
export { type Finding, findings } from "./findings.js";
export { specialisation, windowsOf } from "./measure.js";
export { type Arm, armName, armsOf, type ExperimentSettings, expectations, finetuneShare } from "./plan.js";
export { isComplete, type ResultRow, readResults } from "./results.js";
export { runExperiment } from "./run.js";
export { type ArmSummary, summarise } from "./summary.js";
export { type TimeSpent, timeSpent } from "./time.js";
