import { InitialValues, philox } from "@trefoil/core";

/** Random choices on the host; every scene has a stream of its own. */
export class Choices {
  readonly #values: InitialValues;

  /** @param keys seed, split, index, …: up to four whole numbers below 2^32 */
  constructor(seed: number, ...keys: number[]) {
    const [a = 0, b = 0, c = 0] = keys;
    const words = philox([a, b, c, 0x73796e74], [seed >>> 0, Math.floor(seed / 2 ** 32)]);
    this.#values = new InitialValues((words[0]! >>> 0) * 2 ** 21 + (words[1]! >>> 11));
  }

  /** Uniform on (0, 1). */
  next(): number {
    return this.#values.next();
  }

  chance(probability: number): boolean {
    return this.next() < probability;
  }

  /** A whole number in [0, below). */
  below(below: number): number {
    return Math.min(below - 1, Math.floor(this.next() * below));
  }

  /** One of them; later ones are rarer by `decay` each. */
  pick<T>(from: readonly T[], decay = 1): T {
    if (decay === 1) return from[this.below(from.length)]!;
    const total = from.reduce((sum, _, i) => sum + decay ** i, 0);
    let left = this.next() * total;
    for (let i = 0; i < from.length; i++) {
      left -= decay ** i;
      if (left <= 0) return from[i]!;
    }
    return from.at(-1)!;
  }
}
