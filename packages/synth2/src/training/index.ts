export { evaluationRows } from "./evaluation.js";
export { makeOptimizer, type TrainingSettings } from "./optimizer.js";
