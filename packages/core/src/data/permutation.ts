import { requireHostMemory } from "../device/host-memory.js";
import { philox, wordsOf } from "./philox.js";

const rounds = 8;

/**
 * A pseudo-random order of `size` things, one per seed, stream and epoch, whose i-th element is computed alone: a Feistel
 * network over the next power of four (Luby and Rackoff 1988), walked until it lands inside (Black and Rogaway 2002).
 */
export class Permutation {
  readonly #halfBits: number;
  readonly #mask: number;
  readonly #keys: number[] = [];

  /** @param stream tells apart orders that share a seed */
  constructor(
    readonly size: number,
    seed: number,
    epoch: number,
    stream = 0,
  ) {
    let halfBits = 1;
    while (4 ** halfBits < size) halfBits++;
    this.#halfBits = halfBits;
    this.#mask = 2 ** halfBits - 1;
    const [low, high] = wordsOf(epoch);
    for (let block = 0; block < rounds / 4; block++)
      this.#keys.push(...philox([low, high, stream, block], wordsOf(seed)));
  }

  /** The element at position `i`, both from 0 to `size - 1`. */
  at(i: number): number {
    let value = i;
    do value = this.#encrypt(value);
    while (value >= this.size);
    return value;
  }

  #encrypt(value: number): number {
    const span = 2 ** this.#halfBits;
    let left = Math.floor(value / span);
    let right = value % span;
    for (const key of this.#keys) {
      // murmur3's finaliser as the round function
      let h = (right ^ key) | 0;
      h = Math.imul(h ^ (h >>> 16), 0x85ebca6b);
      h = Math.imul(h ^ (h >>> 13), 0xc2b2ae35);
      h ^= h >>> 16;
      [left, right] = [right, (left ^ h) & this.#mask];
    }
    return left * span + right;
  }
}

/**
 * `count` rows from position `at` of an endless stream: a new order every epoch, computed from the position alone.
 * @throws OutOfMemoryError for more rows than can be listed
 */
export function rowsFrom(size: number, at: number, count: number, seed: number): number[] {
  requireHostMemory(8 * count, `a batch of ${count} rows`, "use fewer");
  return Array.from({ length: count }, (_, i) => {
    const position = at + i;
    return new Permutation(size, seed, Math.floor(position / size)).at(position % size);
  });
}

/** Rows of update `step`. */
export const rowsOfStep = (size: number, batch: number, step: number, seed: number): number[] =>
  rowsFrom(size, step * batch, batch, seed);
