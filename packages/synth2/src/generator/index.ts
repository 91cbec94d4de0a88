export { type GeneratorArchitecture, type GeneratorSizes, generatorFor, generatorSizesSchema } from "./architecture.js";
export { type OpenMaskedGenerator, openGenerator, requireSameTokenizer, saveGenerator } from "./folder.js";
export { MaskedGenerator } from "./masked-model.js";
export { hideCodes, keptConditions, type MaskingOptions } from "./masking.js";
export { captionsOf, encodePairs } from "./pairs.js";
export { type CaptionTokens, encodeCaption, textBatch } from "./text.js";
export {
  type CodedPairs,
  type GeneratorLossSettings,
  GeneratorTrainer,
  maskedEvaluation,
  type TrainGeneratorOptions,
  type TrainGeneratorResult,
  trainGenerator,
} from "./train.js";
