export { MaskedSampler, type SampleRequest, type SamplingStep, UNKNOWN_CODE } from "./masked-sampler.js";
export { type SamplingOptions, samplingSchema } from "./options.js";
export { pictureSeed } from "./seeds.js";
