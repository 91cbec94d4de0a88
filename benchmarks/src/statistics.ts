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

export function spread(values: readonly number[]): Spread {
  const sorted = [...values].sort((a, b) => a - b);
  return {
    median: quantile(sorted, 0.5),
    low: quantile(sorted, 0.25),
    high: quantile(sorted, 0.75),
    samples: sorted.length,
  };
}

/** Quartiles of the ratio of paired samples, `b / a`: drift that hits both sides cancels. */
export const ratio = (a: readonly number[], b: readonly number[]): Spread => spread(a.map((value, i) => b[i]! / value));
