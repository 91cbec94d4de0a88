export { createProgress, type Progress, type ProgressOptions, type ProgressValues, type Stage, type StageOptions } from "./progress.js";
