export { type DenoiserArchitecture, type DiffusionSettings, denoiserFor, diffusionSchema } from "./architecture.js";
export { EmbeddingDenoiser } from "./denoiser.js";
export { type OpenDenoiser, openDenoiser, saveDenoiser } from "./folder.js";
export { type DiffusionSamplingOptions, diffusionSamplingSchema } from "./options.js";
export { DiffusionSampler } from "./sampler.js";
export { DenoiserTrainer, type TrainDenoiserOptions, trainDenoiser } from "./train.js";
