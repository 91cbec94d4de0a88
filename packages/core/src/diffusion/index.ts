export {
  addNoise,
  cosineAlphaBar,
  type DdimStep,
  type DenoiserTarget,
  ddimStep,
  denoiserTarget,
} from "./gaussian.js";
export { haltonCell, haltonOrder, haltonPriority } from "./halton.js";
export { haltonCounts, type MaskScheduleKind, maskCounts, maskSchedule } from "./mask-schedule.js";
