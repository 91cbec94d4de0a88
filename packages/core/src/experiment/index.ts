export { pairedRows } from "./paired-rows.js";
export { type ExperimentReport, writeExperimentReport } from "./report.js";
export { readResultRows } from "./results.js";
export {
  type ExperimentOptions,
  type ExperimentPlan,
  type RunUnit,
  runUnits,
  serveUnits,
  type UnitRequest,
} from "./run.js";
export { keepSettings, readSettings } from "./settings.js";
