/** How much each model of an ensemble counts (arXiv 2208.03306, §3; arXiv 2303.14177, §2.3). */

/** `w_j ∝ exp(-d_j² / T)`: squared distances of a text from each model's training text. @param temperature > 0 */
export function distanceWeights(squaredDistances: readonly number[], temperature: number): number[] {
  // The nearest counts exp(0): no distance is too long for the rest.
  const nearest = Math.min(...squaredDistances);
  return normalized(squaredDistances.map((squared) => Math.exp((nearest - squared) / temperature)));
}

/** The k largest weights, equal ones in their order, divided by their sum; the others are 0. */
export function keepLargest(weights: readonly number[], k: number): number[] {
  const order = weights.map((_, i) => i).sort((a, b) => weights[b]! - weights[a]! || a - b);
  const kept = new Set(order.slice(0, k));
  return normalized(weights.map((weight, i) => (kept.has(i) ? weight : 0)));
}

/** `p(x) = Σ_j w_j p_j(x)`. @param rows probabilities of each model, [models][vocabulary] */
export function mixProbabilities(weights: readonly number[], rows: readonly ArrayLike<number>[]): Float64Array {
  const mixed = new Float64Array(rows[0]!.length);
  rows.forEach((row, j) => {
    const weight = weights[j]!;
    if (weight > 0) for (let i = 0; i < mixed.length; i++) mixed[i]! += weight * row[i]!;
  });
  return mixed;
}

/** `p(x) ∝ Π_j p_j(x)^w_j`, normalised: models agree, where the arithmetic mean lets any one speak. @param logs of probabilities, nats */
export function mixGeometrically(weights: readonly number[], logs: readonly ArrayLike<number>[]): Float64Array {
  const sums = new Float64Array(logs[0]!.length);
  logs.forEach((row, j) => {
    const weight = weights[j]!;
    if (weight > 0) for (let i = 0; i < sums.length; i++) sums[i]! += weight * row[i]!;
  });
  const largest = sums.reduce((a, b) => Math.max(a, b), Number.NEGATIVE_INFINITY);
  const powers = sums.map((sum) => Math.exp(sum - largest));
  const total = powers.reduce((a, b) => a + b, 0);
  return powers.map((power) => power / total);
}

/**
 * The posterior of each model after what it has seen: `p(j | x_≤t) ∝ p_j(x_t | x_<t) p(j | x_<t)`. In logarithms, so that long
 * texts do not underflow.
 */
export class Posterior {
  readonly #logs: Float64Array;

  /** @param prior of each model, above 0; default: all the same */
  constructor(models: number, prior?: readonly number[]) {
    this.#logs = Float64Array.from({ length: models }, (_, j) => Math.log(prior?.[j] ?? 1 / models));
  }

  /** Sees one more token. @param logLikelihoods of it under each model, nats */
  observe(logLikelihoods: ArrayLike<number>): void {
    const logs = this.#logs;
    for (let j = 0; j < logs.length; j++) logs[j]! += logLikelihoods[j]!;
  }

  get weights(): number[] {
    const largest = Math.max(...this.#logs);
    return normalized(Array.from(this.#logs, (value) => Math.exp(value - largest)));
  }
}

/** Divided by their sum; all the same where that is 0. */
function normalized(weights: readonly number[]): number[] {
  const sum = weights.reduce((total, weight) => total + weight, 0);
  return sum > 0 ? weights.map((weight) => weight / sum) : weights.map(() => 1 / weights.length);
}
