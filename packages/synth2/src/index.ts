export { SynthError, type SynthErrorCode } from "./errors.js";
export { imageBatch, toBytes, toUnit } from "./images/pixels.js";
export * from "./metrics/index.js";
export * from "./training/index.js";
export type * from "./types.js";
export * from "./world/index.js";
