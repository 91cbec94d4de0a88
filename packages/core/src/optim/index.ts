export { type BatchPart, batchParts, GradientAccumulator } from "./accumulate.js";
export { AdamW, type AdamWGroup, type AdamWOptions, type OptimizerReport } from "./adamw.js";
export { clipGradients } from "./clip.js";
export { cosineSchedule, linearSchedule, type Schedule, type WarmupOptions } from "./schedule.js";
