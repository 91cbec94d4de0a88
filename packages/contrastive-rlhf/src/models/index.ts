export { disposeParameters, hashModelFolder, OpenPolicy } from "./open.js";
export {
  hashTokens,
  type SampledResponse,
  type SampleRequest,
  Sampler,
  type SamplingSettings,
} from "./sampler.js";
export {
  loadScoreModel,
  OpenRewardModel,
  type SaveRewardModelOptions,
  ScoreModel,
  saveRewardModel,
} from "./score-model.js";
export {
  type Episode,
  lastTokenIndex,
  type PackedBatch,
  packedBatch,
  responseLogProbs,
  type SequenceBatch,
  type SequenceSizes,
  sequenceBatch,
  sizesFor,
} from "./sequences.js";
