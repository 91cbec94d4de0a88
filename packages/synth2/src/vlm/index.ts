export { type VlmArchitecture, type VlmSizes, vlmArchitectureSchema, vlmSizesSchema } from "./architecture.js";
export { Captioner, type CaptionerOptions } from "./captioner.js";
export { CodedDataset, SyntheticDataset } from "./datasets.js";
export { type CaptionerScores, scoreDataset } from "./evaluate.js";
export { type OpenVlm, openVlm, saveVlm } from "./folder.js";
export { GatedBlock, PerceiverResampler, type PictureMemory } from "./layers.js";
export { type CaptionTargets, VisionLanguageModel } from "./model.js";
export { OnTheFlyDataset } from "./on-the-fly.js";
export { measurePictureUse, type PictureUse } from "./picture-use.js";
export { captionTargets } from "./targets.js";
export {
  mixOfStep,
  requireTextTokens,
  type TrainVlmOptions,
  type TrainVlmResult,
  trainVlm,
  type VlmData,
  VlmTrainer,
  vlmArchitecture,
} from "./train.js";
