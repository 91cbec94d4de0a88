export { makeOptimizer, type TrainingSettings } from "./optimizer.js";
