import { attention } from "../ops/attention.js";
import { linear } from "../ops/matmul.js";
import { reshape, updateRows } from "../ops/movement.js";
import { rope } from "../ops/rope.js";
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

export interface AttentionContext {
  rotary: RotaryTable;
  /** i32 [batch, sequence] */
  positions: Tensor;
  /** i32 [batch, sequence]: packed documents. */
  segments?: Tensor | undefined;
  /** Decoding: the cache, where the first new row goes, and how many keys are then valid (both i32 [batch]). */
  cache?: { at: KeyValueCache; start: Tensor; lengths: Tensor } | undefined;
}

/** Causal grouped-query self-attention with rotary positions, as in Llama. */
export class SelfAttention extends Module {
  readonly qProj: Linear;
  readonly kProj: Linear;
  readonly vProj: Linear;
  readonly oProj: Linear;
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

  /** x [batch, sequence, hidden] -> the same shape, before the residual connection. */
  forward(x: Tensor, context: AttentionContext): Tensor {
    const [batch, sequence] = x.shape as [number, number, number];
    const split = (projection: Linear, heads: number) =>
      reshape(linear(x, projection.weight), [batch, sequence, heads, this.#headDim]);
    const { rotary, positions, segments, cache } = context;
    const q = rope(split(this.qProj, this.#heads), rotary.cosine, rotary.sine, positions);
    const k = rope(split(this.kProj, this.#keyValueHeads), rotary.cosine, rotary.sine, positions);
    const v = split(this.vProj, this.#keyValueHeads);
    let mixed: Tensor;
    if (cache) {
      const keys = updateRows(cache.at.keys, k, cache.start);
      const values = updateRows(cache.at.values, v, cache.start);
      cache.at.keys.assign(keys);
      cache.at.values.assign(values);
      mixed = attention(q, keys, values, { causal: true, keyLengths: cache.lengths });
    } else {
      mixed = attention(q, k, v, segments ? { causal: true, segments } : { causal: true });
    }
    return linear(reshape(mixed, [batch, sequence, this.#heads * this.#headDim]), this.oProj.weight);
  }
}
