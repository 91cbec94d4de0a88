export * from "./device/index.js";
export * from "./graph/index.js";
export * from "./ops/index.js";
export * from "./tensor/index.js";
