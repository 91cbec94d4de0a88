export * from "./nn/index.js";
export * from "./optim/index.js";
export * from "./models/index.js";
export * from "./device/index.js";
export * from "./graph/index.js";
export * from "./ops/index.js";
export * from "./tensor/index.js";
