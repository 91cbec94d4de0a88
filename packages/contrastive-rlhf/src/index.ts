export * from "./algorithm/index.js";
export * from "./data/index.js";
export { RlhfError, type RlhfErrorCode } from "./errors.js";
export * from "./experiment/index.js";
export * from "./models/index.js";
export * from "./quickstart/index.js";
export * from "./stages/index.js";
export * from "./task/index.js";
