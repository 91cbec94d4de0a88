export {
  MetricsError,
  NonFiniteLossError,
  OutputExistsError,
  OutputFolderError,
  ResumeError,
  RunDirectoryError,
} from "./errors.js";
export { type LoopState, type StepScalars, type TrainLoopOptions, type TrainLoopResult, trainLoop } from "./loop.js";
export {
  type MetricsFileOptions,
  type MetricsRecord,
  type MetricsSink,
  openMetricsFile,
  readMetricsFile,
  WALL_CLOCK_FIELDS,
} from "./metrics.js";
export { namedState, restoreParameters, type Stateful, storedTensors } from "./parameter-state.js";
export {
  createProgress,
  type Progress,
  type ProgressOptions,
  type ProgressValues,
  type Stage,
  type StageOptions,
} from "./progress.js";
export * from "./report/index.js";
export { openRunDirectory, type RunDirectory, type RunDirectoryOptions, sameConfig } from "./run-directory.js";
export { RUN_LAYOUT } from "./run-layout.js";
export { lockDirectory, type RunOwner, runOwner } from "./run-lock.js";
export { runSteps, type StepsPlan, scalarsOf } from "./run-steps.js";
export { defined, requireFreeOutput, type StageContext, type StageOutput } from "./stage.js";
export { openTensorBoardFile, type TensorBoardOptions } from "./tensorboard.js";
