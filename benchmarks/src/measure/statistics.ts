/** Median and quartiles of a sample. */
export interface Spread {
  median: number;
  low: number;
  high: number;
  samples: number;
}

const quantile = (sorted: readonly number[], q: number): number => {
  const at = (sorted.length - 1) * q;
  const below = Math.floor(at);
  const above = Math.min(below + 1, sorted.length - 1);
  return sorted[below]! + (sorted[above]! - sorted[below]!) * (at - below);
};

/** Median and quartiles, interpolated linearly. @throws RangeError without values */
export function spread(values: readonly number[]): Spread {
  if (values.length === 0) throw new RangeError("a spread needs at least one value");
  const sorted = [...values].sort((a, b) => a - b);
  return {
    median: quantile(sorted, 0.5),
    low: quantile(sorted, 0.25),
    high: quantile(sorted, 0.75),
    samples: sorted.length,
  };
}

/** Quartiles of the ratio of paired samples, `b / a`: drift that hits both sides of a pair cancels. */
export function pairedRatio(a: readonly number[], b: readonly number[]): Spread {
  if (a.length !== b.length) throw new RangeError(`paired samples: ${a.length} and ${b.length} values`);
  return spread(a.map((value, i) => b[i]! / value));
}

/** exp(mean(log x)): the fair mean of ratios. */
export function geometricMean(values: readonly number[]): number {
  if (values.length === 0) throw new RangeError("a geometric mean needs at least one value");
  return Math.exp(values.reduce((sum, value) => sum + Math.log(value), 0) / values.length);
}
