export {
  type BaselineOptions,
  type BaselineResult,
  describeBaselines,
  type SamplingOptions,
  sampleBaselines as baselines,
} from "./baselines.js";
export { type ChatOptions, Conversation, chat, type ReplyOptions } from "./chat.js";
export { type DpoOptions, dpo } from "./dpo.js";
export {
  type ComparedPair,
  type Comparison,
  compareResponses,
  type EvaluateOptions,
  evaluate,
  type FrontierOptions,
  type FrontierPoint,
  rewardKlFrontier,
} from "./evaluate.js";
export { type GradientVariance, type GradientVarianceOptions, measureGradientVariance } from "./gradient-variance.js";
export { commandJudge, type Judge, judgeBothOrders, type Verdict } from "./judge.js";
export type { OptimizerSettings } from "./optimizer.js";
export * from "./ppo/index.js";
export { type RespondOptions, respond, respondWith } from "./respond.js";
export {
  type RewardModelOptions,
  type RewardModelResult,
  trainRewardModel as reward,
} from "./reward-model.js";
export {
  functionReward,
  loadModelReward,
  loadRewardFunction,
  type Reward,
  type RewardFunction,
  RewardSum,
  type ScoredSample,
  type WeightedReward,
} from "./rewards.js";
export { type NewPolicy, type SftOptions, sft, type TrainingSettings } from "./sft.js";
export { BaselineStore, type StoredSamples, type StoreIdentity } from "./store.js";
