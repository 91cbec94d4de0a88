export { hashModelFolder, OpenPolicy } from "./open.js";
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
  type EpisodeBatch,
  endBatch,
  perEpisode,
  perToken,
  type ResponseBatch,
  responseBatch,
  responseLogProbs,
  statesRead,
  tokensOf,
} from "./sequences.js";
