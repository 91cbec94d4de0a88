import { mean, variance } from "./aggregate.js";

/** How rewards of the SFT policy vary. */
export interface RewardVariance {
  /** Between prompts: Var_x E_y r. */
  between: number;
  /** Within a prompt: E_x Var_y r. */
  within: number;
  /** between / within: what contrast can remove over what it cannot. */
  rho: number;
}

/** Less the first: equal numbers vary by exactly 0 then, where the rounding of their mean would make up a ratio. */
const shifted = (row: readonly number[]): number[] => row.map((value) => value - row[0]!);

/**
 * Splits the variance of rewards, rows of at least two samples per prompt: within is the mean sample variance of a row, between the
 * variance of row means less what sampling adds to it.
 */
export function rewardVariance(rows: readonly (readonly number[])[]): RewardVariance {
  const usable = rows.filter((row) => row.length > 1);
  if (usable.length < 2) return { between: Number.NaN, within: Number.NaN, rho: Number.NaN };
  const spreads = usable.map((row) => variance(shifted(row), 1));
  const within = mean(spreads);
  const noise = mean(usable.map((row, i) => spreads[i]! / row.length));
  const means = usable.map((row) => row[0]! + mean(shifted(row)));
  const between = Math.max(0, variance(shifted(means), 1) - noise);
  // 0 / 0 where rewards never vary: there is nothing to remove and nothing to add.
  return { between, within, rho: between / within };
}

/** Var(contrastive reward) / Var(reward) for a policy like the SFT policy: `(1 + 1/k) / (1 + ρ)`. Below 1 exactly when ρ k > 1. */
export const varianceRatio = (rho: number, k: number): number => (1 + 1 / k) / (1 + rho);

/**
 * The smallest power of two that comes within `slack` of the ratio of endless sampling, and for which ρ k > 1; at most `limit`.
 */
export function recommendedSamples(rho: number, slack = 0.1, limit = 64): number {
  for (let k = 1; k < limit; k *= 2) if (1 / k <= slack && rho * k > 1) return k;
  return limit;
}

/** A reward model that flips: it says 1 for a bad response with `falsePositive`, 0 for a good one with `falseNegative`. */
export interface BinaryNoise {
  falsePositive: number;
  falseNegative: number;
}

/**
 * Expected contrastive reward under binary noise, given the true quality (0 or 1) and the baseline's mean true quality:
 * `(1 - c0 - c1)(r* - E r*_b)`. The constant c0, which plain rewards keep, has cancelled.
 */
export const contrastUnderNoise = (
  { falsePositive, falseNegative }: BinaryNoise,
  quality: number,
  baselineQuality: number,
): number => (1 - falsePositive - falseNegative) * (quality - baselineQuality);
