import {
  absolute,
  add,
  clamp,
  divide,
  exp,
  greater,
  logSoftmax,
  max,
  maximum,
  minimum,
  multiply,
  negate,
  square,
  subtract,
  sum,
  type Tensor,
  where,
} from "@trefoil/core";
import { maxLogRatio } from "./kl.js";

/** Σ m v / Σ m, a scalar; 0 where the mask is empty. All of `values` and `mask` [..]. */
export const maskedMean = (values: Tensor, mask: Tensor): Tensor =>
  divide(sum(multiply(values, mask)), maximum(sum(mask), 1));

export interface PolicyLossOptions {
  /** Ratios are clipped to 1 ± this. */
  clip: number;
  /** Dual clip: where the advantage is negative the loss is at most `-A` times this (arXiv 1912.09729, eq. 5). */
  dualClip?: number;
}

export interface PolicyLossInputs {
  /** log π_new(a_t), differentiated. */
  logProbs: Tensor;
  /** log π_old(a_t), of the distribution that was sampled from. */
  oldLogProbs: Tensor;
  advantages: Tensor;
  /** 1 for tokens of responses, else 0. */
  mask: Tensor;
}

/** PPO's clipped objective (arXiv 1707.06347, eq. 7) as a loss, and what practitioners watch. All inputs of one shape. */
export function policyLoss(
  { logProbs, oldLogProbs, advantages, mask }: PolicyLossInputs,
  { clip, dualClip }: PolicyLossOptions,
) {
  const logRatio = clamp(subtract(logProbs, oldLogProbs), -maxLogRatio, maxLogRatio);
  const ratio = exp(logRatio);
  const unclipped = negate(multiply(advantages, ratio));
  const clipped = negate(multiply(advantages, clamp(ratio, 1 - clip, 1 + clip)));
  let perToken = maximum(unclipped, clipped);
  if (dualClip !== undefined) {
    perToken = where(greater(0, advantages), minimum(perToken, multiply(advantages, -dualClip)), perToken);
  }
  return {
    loss: maskedMean(perToken, mask),
    perToken,
    ratio,
    clipFraction: maskedMean(greater(clipped, unclipped), mask),
    approxKl1: maskedMean(negate(logRatio), mask),
    approxKl2: maskedMean(multiply(square(logRatio), 0.5), mask),
    approxKl3: maskedMean(add(subtract(ratio, logRatio), -1), mask),
    ratioMean: maskedMean(ratio, mask),
    ratioMax: max(where(mask, ratio, 0)),
    /** Largest |ratio - 1|: 0 before the first update. */
    ratioDeviation: max(multiply(absolute(add(ratio, -1)), mask)),
  };
}

export interface ValueLossInputs {
  /** V_new, differentiated. */
  values: Tensor;
  /** V at the time of the rollout. */
  oldValues: Tensor;
  returns: Tensor;
  mask: Tensor;
}

/** `½ Σ m max((v - ret)², (clip(v, v_old ± ε) - ret)²) / Σ m`. @param clip ε; undefined: no clipping */
export function valueLoss({ values, oldValues, returns, mask }: ValueLossInputs, clip?: number) {
  const plain = square(subtract(values, returns));
  if (clip === undefined) return { loss: multiply(maskedMean(plain, mask), 0.5), clipFraction: multiply(sum(mask), 0) };
  const limited = add(oldValues, clamp(subtract(values, oldValues), -clip, clip));
  const clipped = square(subtract(limited, returns));
  return {
    loss: multiply(maskedMean(maximum(plain, clipped), mask), 0.5),
    clipFraction: maskedMean(greater(clipped, plain), mask),
  };
}

/** KL(π‖π_ref) per token as a loss: k2 has the true gradient, k3 is what GRPO uses. All inputs of one shape. */
export function klLoss(logProbs: Tensor, referenceLogProbs: Tensor, mask: Tensor, estimator: "k2" | "k3"): Tensor {
  const logRatio = clamp(subtract(referenceLogProbs, logProbs), -maxLogRatio, maxLogRatio);
  const perToken = estimator === "k2" ? multiply(square(logRatio), 0.5) : add(subtract(exp(logRatio), logRatio), -1);
  return maskedMean(perToken, mask);
}

/** Entropy of the softmax of each row, nats: logits [.., V] -> [..]. */
export function entropy(logits: Tensor): Tensor {
  const logProbs = logSoftmax(logits);
  return negate(sum(multiply(exp(logProbs), logProbs), { axes: -1 }));
}
