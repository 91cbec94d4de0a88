export {
  CausalLM,
  DecoderBlock,
  type DecoderConfig,
  type DecoderSizes,
  type FeedForwardResult,
  type LossOptions,
  type LossResult,
  type SharedRows,
} from "./causal-lm.js";
export { createModel, type LoadOptions, loadModel, loadWeights, type SaveModelOptions, saveModel } from "./folder.js";
export {
  type GenerateOptions,
  type Generation,
  type GenerativeModel,
  Generator,
  type GeneratorOptions,
  generate,
} from "./generate.js";
export { type SaveGgufOptions, saveGguf } from "./gguf.js";
export { GgufError } from "./gguf-values.js";
export { Llama, LlamaBlock } from "./llama.js";
export { Mixtral, type MixtralConfig } from "./mixtral.js";
export { type LlamaSizes, newLlamaConfig } from "./new-llama.js";
export { type DiskTensor, diskLayout, type MixtralLayout } from "./weights.js";
