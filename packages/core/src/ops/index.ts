import "./methods.js";

export { type AttentionOptions, attention } from "./attention.js";
export { cumulativeSum, geluExact, oneHot, topK } from "./composed.js";
export { type Conv2dOptions, conv2d } from "./conv2d.js";
export { type CrossEntropyResult, crossEntropy, linearCrossEntropy } from "./cross-entropy.js";
export {
  absolute,
  add,
  broadcastTo,
  cast,
  clamp,
  cos,
  divide,
  equal,
  erf,
  exp,
  floor,
  gelu,
  greater,
  greaterEqual,
  less,
  lessEqual,
  log,
  logicalNot,
  maximum,
  minimum,
  multiply,
  negate,
  notEqual,
  power,
  reciprocal,
  relu,
  round,
  rsqrt,
  sigmoid,
  sign,
  silu,
  sin,
  softplus,
  sqrt,
  square,
  subtract,
  type TensorLike,
  tanh,
  where,
} from "./elementwise.js";
export { type GroupNormOptions, groupNorm } from "./group-norm.js";
export { type GroupedMatmulOptions, groupedMatmul } from "./grouped-matmul.js";
export { gatherLast, gatherRows, iota, scatterAddRows, scatterLast } from "./indexing.js";
export {
  type MaskedStepInputs,
  type MaskedStepOptions,
  type MaskedStepResult,
  maskedDiffusionStep,
} from "./masked-diffusion.js";
export { linear, type MatmulOptions, matmul } from "./matmul.js";
export {
  type ExpertOrder,
  type Gate,
  type GateMode,
  moeCombine,
  moeGate,
  moeSort,
} from "./moe.js";
export { type AxisOptions, concat, pad, reshape, slice, split, stack, transpose, updateRows } from "./movement.js";
export { layerNorm, rmsNorm } from "./norm.js";
export { allOps } from "./op.js";
export { philoxAdvance as advanceRandom, philoxSampleTokens as sampleTokens, type SamplingOptions } from "./random.js";
export { argmax, max, mean, min, type ReduceOptions, sum, sumSquares } from "./reduce.js";
export { averagePool2, upsampleNearest2 } from "./resample2.js";
export { rope } from "./rope.js";
export { logSoftmax, logsumexp, softmax } from "./softmax.js";
export { stopGradient } from "./stop-gradient.js";
export { swiglu } from "./swiglu.js";
export { type Quantised, vectorQuantise, vqLookup } from "./vq.js";
