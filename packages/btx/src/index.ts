export * from "./domains/index.js";
export * from "./ensemble/index.js";
export * from "./experiment/index.js";
export * from "./mix/index.js";
export * from "./stages/index.js";
export * from "./tasks/index.js";
