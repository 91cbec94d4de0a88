import { RlhfError } from "../errors.js";

/** How k scored samples become one baseline. The paper takes the mean (arXiv 2403.07708). */
export type Aggregation =
  | { kind: "mean" | "median" | "max" | "min" }
  /** Mean without the `fraction` lowest and as many highest. */
  | { kind: "trimmed-mean"; fraction: number }
  /** Linear between order statistics, as NumPy's default. */
  | { kind: "quantile"; q: number };

/** NaN of no values. */
export const mean = (values: readonly number[]): number =>
  values.reduce((sum, value) => sum + value, 0) / values.length;

/** Σ (v - mean)² / (n - correction). */
export function variance(values: readonly number[], correction: 0 | 1 = 0): number {
  const centre = mean(values);
  return values.reduce((sum, value) => sum + (value - centre) ** 2, 0) / (values.length - correction);
}

/** √ of `variance`. */
export const standardDeviation = (values: readonly number[], correction: 0 | 1 = 0): number =>
  Math.sqrt(variance(values, correction));

/** Linear between order statistics, as NumPy's default. @param q in [0, 1] */
export function quantile(values: readonly number[], q: number): number {
  const sorted = [...values].sort((a, b) => a - b);
  const at = (sorted.length - 1) * q;
  const below = Math.floor(at);
  const above = Math.min(below + 1, sorted.length - 1);
  return sorted[below]! + (at - below) * (sorted[above]! - sorted[below]!);
}

/** @throws RlhfError `RLHF_OPTIONS` for no values, or a fraction outside its range */
export function aggregate(values: readonly number[], how: Aggregation = { kind: "mean" }): number {
  if (values.length === 0) throw new RlhfError("RLHF_OPTIONS", "a baseline needs at least one scored sample");
  switch (how.kind) {
    case "mean":
      return mean(values);
    case "median":
      return quantile(values, 0.5);
    case "max":
      return Math.max(...values);
    case "min":
      return Math.min(...values);
    case "quantile":
      if (!(how.q >= 0 && how.q <= 1))
        throw new RlhfError("RLHF_OPTIONS", `the quantile is ${how.q}; it must be in [0, 1]`);
      return quantile(values, how.q);
    case "trimmed-mean": {
      if (!(how.fraction >= 0 && how.fraction < 0.5)) {
        throw new RlhfError("RLHF_OPTIONS", `the trimmed fraction is ${how.fraction}; it must be in [0, 0.5)`);
      }
      const cut = Math.floor(values.length * how.fraction);
      return mean([...values].sort((a, b) => a - b).slice(cut, values.length - cut));
    }
  }
}
