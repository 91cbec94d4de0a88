export { type ClassedCaption, classedCaptions, classPrompt } from "./classes.js";
export { type CaptionSetReport, compareCaptions } from "./diversity.js";
export { hashLanguageModel, LanguageModel } from "./language-model.js";
export { captionSetRow, captionSetTable } from "./report.js";
export {
  type CaptionRequest,
  type CaptionSource,
  CommandSource,
  type CommandSourceOptions,
  ModelSource,
  type ModelSourceOptions,
  type WrittenCaption,
} from "./sources.js";
export {
  type LanguageSizes,
  languageSizesSchema,
  type TrainLanguageModelOptions,
  trainLanguageModel,
} from "./train.js";
export {
  type CaptionFilter,
  REJECTIONS,
  type Rejection,
  readCaptions,
  summary as rejectionSummary,
  type WriteCaptionsOptions,
  type WriteCaptionsResult,
  writeCaptions,
} from "./write.js";
