export { type BatchPart, batchParts, GradientAccumulator } from "./accumulate.js";
export { AdamW, type AdamWOptions, type OptimizerReport } from "./adamw.js";
export { cosineSchedule, linearSchedule, type Schedule, type WarmupOptions } from "./schedule.js";
