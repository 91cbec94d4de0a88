export { architectureSchema, gridSizeOf, type TokenizerArchitecture } from "./architecture.js";
export { Codebook, type CodebookUpdate, CodebookUsage, type QuantisedLatents, usageOf } from "./codebook.js";
export { adaptiveWeight, PatchDiscriminator } from "./discriminator.js";
export { encodeDataset } from "./encode-dataset.js";
export { saveImageTokenizer, TokenizerModel, VqImageTokenizer } from "./image-tokenizer.js";
export {
  type AdversarialSettings,
  imagesTensor,
  type TokenizerLossSettings,
  type TokenizerScores,
  TokenizerTrainer,
  type TrainTokenizerOptions,
  type TrainTokenizerResult,
  trainTokenizer,
} from "./train.js";
