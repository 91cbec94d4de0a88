export { appendResultRow, readResultRows } from "./results.js";
export { type ExperimentPlan, type RunUnit, runUnits, serveUnits, type UnitRequest } from "./run.js";
export { readSettings } from "./settings.js";
