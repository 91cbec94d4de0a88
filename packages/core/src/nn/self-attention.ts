import { attention } from "../ops/attention.js";
import { gatherRows } from "../ops/indexing.js";
import { linear } from "../ops/matmul.js";
import { concat, reshape, updateRows } from "../ops/movement.js";
import { rope, ropeToCache } from "../ops/rope.js";
import { Parameter, type Tensor } from "../tensor/tensor.js";
import { Linear } from "./layers.js";
import { Module } from "./module.js";
import type { InitialValues } from "./random-init.js";
import type { RotaryTable } from "./rotary.js";

export interface SelfAttentionOptions {
  hiddenSize: number;
  heads: number;
  keyValueHeads: number;
  headDim: number;
  standardDeviation: number;
  initial?: InitialValues;
}

/** Keys and values of the positions seen so far, one pair of parameters per layer. */
export class KeyValueCache {
  /** [batch, positions, keyValueHeads, headDim] */
  readonly keys: Parameter;
  readonly values: Parameter;

  constructor(shape: readonly [number, number, number, number], dtype: "f32" | "bf16" = "f32") {
    this.keys = new Parameter(shape, { dtype, trainable: false });
    this.values = new Parameter(shape, { dtype, trainable: false });
  }

  dispose(): void {
    this.keys.dispose();
    this.values.dispose();
  }
}

/**
 * Where rows stand in the sequences that attend. A row that begins several sequences alike is computed once and stands in all of
 * them; and where only some rows are read afterwards, only they ask. Keys stand at the beginning of [sequences, length], queries at its
 * end: causal attention with `keyLengths` then skips what is padding.
 */
export interface AttentionPlaces {
  /** i32 [sequences, length]: the row that is key and value at each place; -1 behind the end. */
  keys: Tensor;
  /** i32 [sequences] */
  lengths: Tensor;
  /** i32 [sequences, length]: the row that asks at each place, among those that ask; -1 where none does. */
  queries: Tensor;
  /** i32 [n]: a place, of sequences * length, of each row that asks; -1: it gets zeros. */
  results: Tensor;
  /** The rows that ask and their positions, both i32 [n]. Default: all. */
  asking?: { rows: Tensor; positions: Tensor } | undefined;
}

/** Rows of x [1, rows, width] by index, i32 [n]: [1, n, width]. */
export const pickRows = (x: Tensor, index: Tensor): Tensor => {
  const width = x.shape.at(-1)!;
  return reshape(gatherRows(reshape(x, [-1, width]), index), [1, index.size, width]);
};

export interface AttentionContext {
  rotary: RotaryTable;
  /** i32 [batch, sequence]; with `places` [1, rows] */
  positions: Tensor;
  /** i32 [batch, sequence]: packed documents. */
  segments?: Tensor | undefined;
  /** x is [1, rows, hidden], and its rows stand in sequences as this says. */
  places?: AttentionPlaces | undefined;
  cache?: CachePlace | undefined;
}

/** Decoding: the cache, where the first new row goes, and how many keys are then valid (both i32 [batch]). */
export interface CachePlace {
  at: KeyValueCache;
  start: Tensor;
  lengths: Tensor;
  /** One product makes queries, keys and values: for programs whose copies of weights lie one after another (`WeightCopies`). Default false. */
  joined?: boolean | undefined;
}

// One that somebody put in its place may compute anything.
const isPlain = (projection: Linear): boolean => projection.constructor === Linear && projection.bias === null;

/**
 * Causal grouped-query self-attention with rotary positions, as in Llama. Its projections may be replaced by subclasses of `Linear`, such
 * as one with an adapter: their `forward` is what it calls.
 */
export class SelfAttention extends Module {
  qProj: Linear;
  kProj: Linear;
  vProj: Linear;
  oProj: Linear;
  readonly #heads: number;
  readonly #keyValueHeads: number;
  readonly #headDim: number;

  constructor(options: SelfAttentionOptions) {
    super();
    const { hiddenSize, heads, keyValueHeads, headDim, standardDeviation, initial } = options;
    const layer = { bias: false, standardDeviation, ...(initial ? { initial } : {}) };
    this.qProj = new Linear(hiddenSize, heads * headDim, layer);
    this.kProj = new Linear(hiddenSize, keyValueHeads * headDim, layer);
    this.vProj = new Linear(hiddenSize, keyValueHeads * headDim, layer);
    this.oProj = new Linear(heads * headDim, hiddenSize, layer);
    this.#heads = heads;
    this.#keyValueHeads = keyValueHeads;
    this.#headDim = headDim;
  }

  /** x [batch, sequence, hidden] -> the same shape (with `places.asking` [1, n, hidden]), before the residual connection. */
  forward(x: Tensor, context: AttentionContext): Tensor {
    const { rotary, positions, segments, cache, places } = context;
    const [batch, sequence] = (places?.keys ?? positions).shape as [number, number];
    if (cache?.joined && [this.qProj, this.kProj, this.vProj].every(isPlain)) return this.#joined(x, context, cache);
    const split = (projection: Linear, heads: number, input: Tensor) =>
      reshape(projection.forward(input), [input.shape[0]!, input.shape[1]!, heads, this.#headDim]);
    const rotated = (rows: Tensor, at: Tensor) => rope(rows, rotary.cosine, rotary.sine, at);
    const standing = (rows: Tensor, index?: Tensor) => {
      const [heads, size] = rows.shape.slice(2) as [number, number];
      return index
        ? reshape(gatherRows(reshape(rows, [-1, heads * size]), index), [batch, sequence, heads, size])
        : rows;
    };
    const asking = places?.asking;
    const asked = asking ? pickRows(x, asking.rows) : x;
    const askedAt = asking ? reshape(asking.positions, [1, -1]) : positions;
    const q = standing(rotated(split(this.qProj, this.#heads, asked), askedAt), places?.queries);
    const k = standing(rotated(split(this.kProj, this.#keyValueHeads, x), positions), places?.keys);
    const v = standing(split(this.vProj, this.#keyValueHeads, x), places?.keys);
    let mixed: Tensor;
    if (cache) {
      const keys = updateRows(cache.at.keys, k, cache.start);
      const values = updateRows(cache.at.values, v, cache.start);
      cache.at.keys.assign(keys);
      cache.at.values.assign(values);
      mixed = attention(q, keys, values, { causal: true, keyLengths: cache.lengths });
    } else {
      const limits = { ...(places && { keyLengths: places.lengths }), ...(segments && { segments }) };
      mixed = attention(q, k, v, { causal: true, ...limits });
    }
    const joined = reshape(mixed, [batch, sequence, this.#heads * this.#headDim]);
    return this.oProj.forward(places ? pickRows(joined, places.results) : joined);
  }

  #joined(x: Tensor, { rotary, positions }: AttentionContext, { at, start, lengths }: CachePlace): Tensor {
    const weights = concat([this.qProj.weight, this.kProj.weight, this.vProj.weight]);
    const written = ropeToCache(linear(x, weights), rotary, positions, { keys: at.keys, values: at.values, start });
    at.keys.assign(written.keys);
    at.values.assign(written.values);
    const mixed = attention(written.query, written.keys, written.values, { causal: true, keyLengths: lengths });
    return this.oProj.forward(reshape(mixed, [x.shape[0]!, x.shape[1]!, -1]));
  }
}
