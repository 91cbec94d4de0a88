export { type AverageOptions, averageModels } from "./average.js";
export type { Source } from "./compatibility.js";
export { MixError, type MixErrorCode } from "./errors.js";
export { type DivergenceReport, type MixOptions, type MixPlan, type MixResult, mix, planMix } from "./mix.js";
export { RidgeMoments, type RidgeOptions, ridgeRouter } from "./ridge.js";
export type { RouterInit } from "./router.js";
export type { FloatDtype } from "./streaming.js";
