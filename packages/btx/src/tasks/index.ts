export { type Outcome, type RunLimits, runProgram, type Value } from "./interpreter.js";
export type { Question } from "./question.js";
export { isRight, makeTask, type Task, type TaskName, taskNames } from "./task.js";
