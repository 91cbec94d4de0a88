export {
  designEffect,
  fromCounts,
  holm,
  type PairedTest,
  pairedTest,
  signFlipP,
  signTestP,
  studentP,
  type WinTieLose,
  wilsonInterval,
  winTieLose,
} from "@trefoil/core";
export { type Advantages, explainedVariance, generalisedAdvantages, whiten } from "./advantages.js";
export { type Aggregation, aggregate, mean, quantile, standardDeviation, variance } from "./aggregate.js";
export {
  type BinaryNoise,
  contrastUnderNoise,
  type RewardVariance,
  recommendedSamples,
  rewardVariance,
  varianceRatio,
} from "./diagnostics.js";
export { groupRelative, leaveOneOut } from "./group.js";
export { type AdaptiveKlOptions, adaptKlCoefficient, klEstimators, maxLogRatio, shapedRewards } from "./kl.js";
export { RunningMoments } from "./moments.js";
export { type PenaltyOptions, penalise, type ResponseFacts, softOverlong } from "./penalties.js";
export {
  entropy,
  klLoss,
  maskedMean,
  type PolicyLossInputs,
  type PolicyLossOptions,
  policyLoss,
  type ValueLossInputs,
  valueLoss,
} from "./policy-loss.js";
export {
  type DpoForm,
  type DpoInputs,
  dpoLoss,
  type RewardModelLossOptions,
  rewardModelLoss,
} from "./preference-loss.js";
export { type Compared, RewardShaper, type Shaper } from "./shapers.js";
