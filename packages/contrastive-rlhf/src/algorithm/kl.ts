/** Log-ratios beyond this are cut before they are exponentiated. */
export const maxLogRatio = 20;

const limited = (logRatio: number): number => Math.max(-maxLogRatio, Math.min(maxLogRatio, logRatio));

/**
 * Estimators of KL(p‖q) from samples of p, per token (Schulman, "Approximating KL divergence"); `logP - logQ` is the log-ratio.
 * k1 is unbiased and may be negative, k2 is biased with the right gradient as a loss, k3 is unbiased and never negative.
 */
export const klEstimators = {
  k1: (logP: number, logQ: number): number => logP - logQ,
  k2: (logP: number, logQ: number): number => 0.5 * (logP - logQ) ** 2,
  k3: (logP: number, logQ: number): number => {
    const logRatio = limited(logQ - logP);
    return Math.expm1(logRatio) - logRatio;
  },
};

/**
 * Per-token rewards: `-β k1` at every token, and the score at the last one, which is the end of the text or the last token of a
 * truncated response.
 */
export function shapedRewards(
  logProbs: ArrayLike<number>,
  referenceLogProbs: ArrayLike<number>,
  score: number,
  coefficient: number,
  length = logProbs.length,
): number[] {
  const rewards = Array.from({ length }, (_, t) => -coefficient * klEstimators.k1(logProbs[t]!, referenceLogProbs[t]!));
  if (length > 0) rewards[length - 1]! += score;
  return rewards;
}

export interface AdaptiveKlOptions {
  /** KL per episode, summed over its tokens, that the controller steers to. */
  target: number;
  /** Episodes over which the coefficient can change by a factor e^0.2 at most. */
  horizon: number;
}

/** The coefficient after a batch of `episodes` with mean summed `kl` (Ziegler et al., arXiv 1909.08593, §2.2). */
export function adaptKlCoefficient(
  coefficient: number,
  kl: number,
  episodes: number,
  { target, horizon }: AdaptiveKlOptions,
): number {
  const error = Math.max(-0.2, Math.min(0.2, kl / target - 1));
  return coefficient * (1 + (error * episodes) / horizon);
}
