export * from "./mix/index.js";
