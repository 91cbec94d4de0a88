import { mean, variance } from "./aggregate.js";

export interface Advantages {
  advantages: number[];
  returns: number[];
}

/**
 * Generalised advantage estimation (arXiv 1506.02438, eq. 16): `δ_t = r_t + γ V_{t+1} - V_t`, `A_t = δ_t + γ λ A_{t+1}`, returns `A + V`.
 * The value after the last token is 0, because episodes end. V_t is of the state before token t.
 */
export function generalisedAdvantages(
  rewards: readonly number[],
  values: ArrayLike<number>,
  gamma: number,
  lambda: number,
): Advantages {
  const advantages = new Array<number>(rewards.length);
  let next = 0;
  for (let t = rewards.length - 1; t >= 0; t--) {
    const nextValue = t + 1 < rewards.length ? values[t + 1]! : 0;
    next = rewards[t]! + gamma * nextValue - values[t]! + gamma * lambda * next;
    advantages[t] = next;
  }
  return { advantages, returns: advantages.map((advantage, t) => advantage + values[t]!) };
}

/**
 * Values with mean 0 and variance 1 (population variance, as in TRL): `(v - μ) / √(σ² + 1e-8)`.
 * @param shiftMean false: the mean is kept, as for rewards
 */
export function whiten(values: readonly number[], shiftMean = true): number[] {
  const centre = mean(values);
  const scale = 1 / Math.sqrt(variance(values) + 1e-8);
  return values.map((value) => (value - centre) * scale + (shiftMean ? 0 : centre));
}

/** `1 - Var(returns - values) / Var(returns)`: 1 for a perfect critic, 0 for a constant, below for worse. 0 when returns are constant. */
export function explainedVariance(returns: readonly number[], values: readonly number[]): number {
  const total = variance(returns);
  return total > 0 ? 1 - variance(returns.map((value, i) => value - values[i]!)) / total : 0;
}
