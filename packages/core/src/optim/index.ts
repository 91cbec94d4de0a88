export { AdamW, type AdamWOptions, type OptimizerReport } from "./adamw.js";
export { constantSchedule, cosineSchedule, linearSchedule, type Schedule, type WarmupOptions } from "./schedule.js";
