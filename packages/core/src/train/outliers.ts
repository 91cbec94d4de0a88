const WINDOW = 100;
const MINIMUM = 20;

/** Flags a loss far above the last hundred: a hint of bad data or of divergence to come. */
export class OutlierDetector {
  readonly #threshold: number;
  readonly #recent: number[] = [];

  /** @param threshold standard deviations above the mean of the window that make an outlier */
  constructor(threshold: number) {
    this.#threshold = threshold;
  }

  /** Adds a loss and returns its z-score against the losses before it when that is above the threshold. */
  add(loss: number): number | undefined {
    const score = this.#recent.length < MINIMUM ? 0 : this.#score(loss);
    this.#recent.push(loss);
    if (this.#recent.length > WINDOW) this.#recent.shift();
    return score > this.#threshold ? score : undefined;
  }

  #score(loss: number): number {
    const count = this.#recent.length;
    const mean = this.#recent.reduce((sum, value) => sum + value, 0) / count;
    const variance = this.#recent.reduce((sum, value) => sum + (value - mean) ** 2, 0) / count;
    // Below rounding noise of the mean, any difference would look enormous.
    const deviation = Math.max(Math.sqrt(variance), 1e-6 * Math.abs(mean));
    return deviation === 0 ? 0 : (loss - mean) / deviation;
  }
}
