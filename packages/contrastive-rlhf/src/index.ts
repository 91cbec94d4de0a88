export * from "./algorithm/index.js";
export { RlhfError, type RlhfErrorCode } from "./errors.js";
