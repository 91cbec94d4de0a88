import { createHash } from "node:crypto";
import {
  add,
  type CausalLM,
  compile,
  full,
  InvalidUseError,
  iota,
  KeyValueCache,
  Parameter,
  philox,
  reshape,
  type Tensor,
  tensor,
} from "@trefoil/core";

export interface SamplingSettings {
  /** Logits are divided by this; 0: greedy. */
  temperature: number;
  maxNewTokens: number;
  eosTokenIds: readonly number[];
  /** Key of the random numbers. */
  seed: number;
  /** Tells apart draws that share a seed: an iteration, an evaluation. */
  stream: number;
}

/** One response that is wanted: the `sample`-th of a prompt. */
export interface SampleRequest {
  prompt: Int32Array;
  sample: number;
}

export interface SampledResponse {
  /** New tokens, the ending one included. */
  tokens: Int32Array;
  /** Whether an ending token was drawn. */
  ended: boolean;
}

/** SHA-256 of the token ids. */
export const hashTokens = (tokens: Int32Array): string =>
  createHash("sha256")
    .update(new Uint8Array(tokens.buffer, tokens.byteOffset, tokens.byteLength))
    .digest("hex");

/** Uniform numbers of one response, by token: they depend on seed, stream, prompt and sample, never on the batch. */
function uniforms(prompt: Int32Array, sample: number, seed: number, stream: number): (t: number) => number {
  const digest = hashTokens(prompt);
  const words = [Number.parseInt(digest.slice(0, 8), 16), Number.parseInt(digest.slice(8, 16), 16)] as const;
  return (t) => {
    const [a, b] = philox([t, sample, words[0], words[1]], [seed, stream]);
    return ((a >>> 5) * 67108864 + (b >>> 6)) / 2 ** 53;
  };
}

/** Inverse CDF of softmax(logits / temperature) at `u`, in the order of ids; greedy at temperature 0. */
function draw(logits: Float32Array, temperature: number, u: number): number {
  let best = 0;
  for (let i = 1; i < logits.length; i++) if (logits[i]! > logits[best]!) best = i;
  if (temperature === 0) return best;
  const largest = logits[best]!;
  const weights = new Float64Array(logits.length);
  let total = 0;
  for (let i = 0; i < logits.length; i++) total += weights[i] = Math.exp((logits[i]! - largest) / temperature);
  let left = u * total;
  for (let i = 0; i < logits.length; i++) {
    left -= weights[i]!;
    if (left < 0) return i;
  }
  return best;
}

/** Prompts are padded up to a multiple of this, so that few programs serve all lengths. */
const lengthQuantum = 8;
const roundUp = (value: number): number => Math.ceil(value / lengthQuantum) * lengthQuantum;

/**
 * Batched sampling with a key-value cache, where each response has random numbers of its own: the same prompt, sample and seed give
 * the same response in any batch. The model may be trained between calls.
 */
export class Sampler implements Disposable {
  readonly batch: number;
  readonly #model: CausalLM;
  readonly #prompt: number;
  readonly #caches: KeyValueCache[];
  readonly #lengths: Parameter;

  /** @param longestPrompt tokens */
  constructor(model: CausalLM, batch: number, longestPrompt: number, maxNewTokens: number) {
    const { keyValueHeads, headDim, layers, maxPositions } = model.config;
    if (longestPrompt + maxNewTokens > maxPositions) {
      throw new InvalidUseError(
        `a prompt of ${longestPrompt} and ${maxNewTokens} new tokens exceed the model's ${maxPositions} positions`,
      );
    }
    this.#model = model;
    this.batch = batch;
    const positions = Math.min(maxPositions, roundUp(longestPrompt) + maxNewTokens);
    this.#prompt = Math.min(roundUp(longestPrompt), positions);
    this.#caches = Array.from({ length: layers }, () => new KeyValueCache([batch, positions, keyValueHeads, headDim]));
    this.#lengths = new Parameter([batch], { dtype: "i32", trainable: false });
  }

  readonly #prefill = compile((tokens: Tensor, lengths: Tensor) => {
    const [batch, sequence] = tokens.shape as [number, number];
    const caches = { layers: this.#caches, start: full([batch], 0, "i32"), lengths: full([batch], sequence, "i32") };
    const { hidden } = this.#model.hidden(tokens, { caches });
    this.#lengths.assign(lengths);
    return this.#model.logitsAt(hidden, add(add(iota(batch).mul(sequence), lengths), -1));
  });

  readonly #decode = compile((token: Tensor) => {
    const lengths = add(this.#lengths, 1);
    const caches = { layers: this.#caches, start: this.#lengths, lengths };
    const { hidden } = this.#model.hidden(token, { caches, positions: reshape(this.#lengths, [this.batch, 1]) });
    this.#lengths.assign(lengths);
    return this.#model.logitsAt(hidden, iota(this.batch));
  });

  /** Any number of requests, `batch` at a time; answers in the order of the requests. */
  async sample(
    requests: readonly SampleRequest[],
    settings: SamplingSettings,
    signal?: AbortSignal,
  ): Promise<SampledResponse[]> {
    const responses: SampledResponse[] = [];
    for (let from = 0; from < requests.length; from += this.batch) {
      signal?.throwIfAborted();
      responses.push(...(await this.#batchOf(requests.slice(from, from + this.batch), settings)));
    }
    return responses;
  }

  async #batchOf(requests: readonly SampleRequest[], settings: SamplingSettings): Promise<SampledResponse[]> {
    const { temperature, maxNewTokens, eosTokenIds, seed, stream } = settings;
    const padded = new Int32Array(this.batch * this.#prompt);
    // Rows without a request run a prompt of one token, which nobody reads.
    const lengths = new Int32Array(this.batch).fill(1);
    requests.forEach(({ prompt }, row) => {
      if (prompt.length === 0)
        throw new InvalidUseError("a prompt is empty; start it with the beginning-of-text token");
      padded.set(prompt, row * this.#prompt);
      lengths[row] = prompt.length;
    });
    const rows = requests.map(({ prompt, sample }) => ({
      tokens: [] as number[],
      ended: false,
      uniform: uniforms(prompt, sample, seed, stream),
    }));
    const next = new Int32Array(this.batch);
    let logits = await this.#prefill(tensor(padded, { shape: [this.batch, this.#prompt] }), tensor(lengths));
    for (let t = 0; t < maxNewTokens; t++) {
      const values = (await logits.data()) as Float32Array;
      const width = values.length / this.batch;
      rows.forEach((row, i) => {
        if (row.ended) return;
        const token = draw(values.subarray(i * width, (i + 1) * width), temperature, row.uniform(t));
        row.tokens.push(token);
        row.ended = eosTokenIds.includes(token);
        next[i] = token;
      });
      if (t + 1 === maxNewTokens || rows.every(({ ended }) => ended)) break;
      logits = await this.#decode(tensor(next.slice(), { shape: [this.batch, 1] }));
    }
    return rows.map(({ tokens, ended }) => ({ tokens: Int32Array.from(tokens), ended }));
  }

  [Symbol.dispose](): void {
    for (const cache of this.#caches) cache.dispose();
    this.#lengths.dispose();
  }
}
