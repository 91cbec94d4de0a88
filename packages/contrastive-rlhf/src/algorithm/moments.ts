/** Running count, mean and squared deviations; merged batch by batch (Chan, Golub and LeVeque 1979). Part of checkpoints. */
export class RunningMoments {
  #count = 0;
  #mean = 0;
  #squares = 0;

  add(values: readonly number[]): void {
    const n = values.length;
    if (n === 0) return;
    const mean = values.reduce((sum, value) => sum + value, 0) / n;
    const squares = values.reduce((sum, value) => sum + (value - mean) ** 2, 0);
    const total = this.#count + n;
    const delta = mean - this.#mean;
    this.#squares += squares + (delta * delta * this.#count * n) / total;
    this.#mean += (delta * n) / total;
    this.#count = total;
  }

  get count(): number {
    return this.#count;
  }

  get mean(): number {
    return this.#mean;
  }

  /** Sample standard deviation (n - 1); 1 until there are two values that differ. */
  get standardDeviation(): number {
    return this.#count > 1 && this.#squares > 0 ? Math.sqrt(this.#squares / (this.#count - 1)) : 1;
  }

  state(): { count: number; mean: number; squares: number } {
    return { count: this.#count, mean: this.#mean, squares: this.#squares };
  }

  restore({ count, mean, squares }: { count: number; mean: number; squares: number }): void {
    this.#count = count;
    this.#mean = mean;
    this.#squares = squares;
  }
}
