export { type Outcome, type RunLimits, runProgram, type Value } from "./interpreter.js";
export { isRight, makeTask, type Question, type Task, type TaskName, taskNames } from "./task.js";
