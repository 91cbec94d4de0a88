export { makeOptimizer, namedState, rowsOfStep, scalarsOf, type TrainingSettings } from "./optimizer.js";
export {
  type RunOptions,
  requireFreeOutput,
  runSteps,
  type StageContext,
  type StageOutput,
  storedTensors,
} from "./run.js";
