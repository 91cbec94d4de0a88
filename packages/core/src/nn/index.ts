export { type BalanceForm, type BalanceOptions, balanceForms, balanceLoss, zLoss } from "./balance.js";
export { Conv2d, type Conv2dLayerOptions, GroupNorm } from "./convolution.js";
export { FeedForward, type FeedForwardOptions } from "./feed-forward.js";
export { Embedding, LayerNorm, Linear, type LinearOptions, RMSNorm, Sequential } from "./layers.js";
export { MixtureOfExperts, type MixtureOfExpertsOptions, type Routing } from "./mixture-of-experts.js";
export { Module } from "./module.js";
export { InitialValues, manualSeed } from "./random-init.js";
export { inverseFrequencies, type RotaryTable, rotaryTable } from "./rotary.js";
export {
  choicesOf,
  gumbelTemperature,
  type RouterConfig,
  type RouterKind,
  type RouterTraining,
  route,
  routerKinds,
} from "./routing.js";
export {
  type AttentionContext,
  type AttentionPlaces,
  type CachePlace,
  KeyValueCache,
  SelfAttention,
  type SelfAttentionOptions,
} from "./self-attention.js";
