import { createHash } from "node:crypto";
import {
  add,
  type CausalLM,
  compile,
  full,
  gatherRows,
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

/** Rows that decode together, with their keys and values. */
class DecodeBatch implements Disposable {
  readonly rows: number;
  readonly #model: CausalLM;
  readonly #caches: KeyValueCache[];
  readonly #lengths: Parameter;

  constructor(model: CausalLM, rows: number, positions: number) {
    const { keyValueHeads, headDim, layers } = model.config;
    this.rows = rows;
    this.#model = model;
    this.#caches = Array.from({ length: layers }, () => new KeyValueCache([rows, positions, keyValueHeads, headDim]));
    this.#lengths = new Parameter([rows], { dtype: "i32", trainable: false });
  }

  /** Runs prompts, i32 [rows, sequence] with `lengths` tokens each: logits of the first new tokens, [rows, vocabulary]. */
  readonly prefill = compile((tokens: Tensor, lengths: Tensor) => {
    const [batch, sequence] = tokens.shape as [number, number];
    const caches = { layers: this.#caches, start: full([batch], 0, "i32"), lengths: full([batch], sequence, "i32") };
    const { hidden } = this.#model.hidden(tokens, { caches });
    this.#lengths.assign(lengths);
    return this.#model.logitsAt(hidden, add(add(iota(batch).mul(sequence), lengths), -1));
  });

  /** One more token, i32 [rows, 1]: logits of the next, [rows, vocabulary]. */
  readonly decode = compile((token: Tensor) => {
    const lengths = add(this.#lengths, 1);
    const caches = { layers: this.#caches, start: this.#lengths, lengths };
    const { hidden } = this.#model.hidden(token, { caches, positions: reshape(this.#lengths, [this.rows, 1]) });
    this.#lengths.assign(lengths);
    return this.#model.logitsAt(hidden, iota(this.rows));
  });

  readonly #copyRows = compile((from: DecodeBatchCaches, index: Tensor) => {
    this.#caches.forEach((cache, layer) => {
      const copy = (source: Tensor, target: Parameter): void => {
        const rows = gatherRows(reshape(source, [source.shape[0]!, -1]), index);
        target.assign(reshape(rows, target.shape));
      };
      copy(from[layer]!.keys, cache.keys);
      copy(from[layer]!.values, cache.values);
    });
    return iota(1);
  });

  /** Takes over rows of a larger batch: row i is `index[i]` of it, with `lengths[i]` tokens so far. */
  async take(from: DecodeBatch, index: Int32Array, lengths: Int32Array): Promise<void> {
    this.#lengths.set(lengths);
    const caches = from.#caches.map(({ keys, values }) => ({ keys, values }));
    await this.#copyRows(caches, tensor(index));
  }

  [Symbol.dispose](): void {
    for (const cache of this.#caches) cache.dispose();
    this.#lengths.dispose();
  }
}
type DecodeBatchCaches = readonly { keys: Tensor; values: Tensor }[];

/** Batches of half the rows are made down to this many: below, a row costs next to nothing. */
const smallestBatch = 8;

/**
 * Batched sampling with a key-value cache, where each response has random numbers of its own: the same prompt, sample and seed give
 * the same response in any batch. Rows that have ended leave the batch when half of it is left. The model may be trained between calls.
 */
export class Sampler implements Disposable {
  readonly batch: number;
  readonly #prompt: number;
  /** Each of half the rows of the one before. */
  readonly #batches: DecodeBatch[] = [];

  /** @param longestPrompt tokens */
  constructor(model: CausalLM, batch: number, longestPrompt: number, maxNewTokens: number) {
    const { maxPositions } = model.config;
    if (longestPrompt + maxNewTokens > maxPositions) {
      throw new InvalidUseError(
        `a prompt of ${longestPrompt} and ${maxNewTokens} new tokens exceed the model's ${maxPositions} positions`,
      );
    }
    this.batch = batch;
    const positions = Math.min(maxPositions, roundUp(longestPrompt) + maxNewTokens);
    this.#prompt = Math.min(roundUp(longestPrompt), positions);
    for (let rows = batch; rows === batch || rows >= smallestBatch; rows = Math.ceil(rows / 2)) {
      this.#batches.push(new DecodeBatch(model, rows, positions));
      if (rows === 1) break;
    }
  }

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
      if (prompt.length === 0) {
        throw new InvalidUseError("a prompt is empty; start it with the beginning-of-text token");
      }
      padded.set(prompt, row * this.#prompt);
      lengths[row] = prompt.length;
    });
    const responses = requests.map(({ prompt, sample }, slot) => ({
      prompt,
      slot,
      tokens: [] as number[],
      ended: false,
      uniform: uniforms(prompt, sample, seed, stream),
    }));
    let level = 0;
    let running = responses;
    const prompts = tensor(padded, { shape: [this.batch, this.#prompt] });
    let logits = await this.#batches[0]!.prefill(prompts, tensor(lengths));
    for (let t = 0; t < maxNewTokens; t++) {
      const values = (await logits.data()) as Float32Array;
      const width = values.length / this.#batches[level]!.rows;
      for (const row of running) {
        const own = values.subarray(row.slot * width, (row.slot + 1) * width);
        const token = draw(own, temperature, row.uniform(t));
        row.tokens.push(token);
        row.ended = eosTokenIds.includes(token);
      }
      running = running.filter(({ ended }) => !ended);
      if (t + 1 === maxNewTokens || running.length === 0) break;
      level = await this.#shrink(level, running, t);
      const { rows, decode } = this.#batches[level]!;
      const next = new Int32Array(rows);
      for (const { slot, tokens } of running) next[slot] = tokens[t]!;
      logits = await decode(tensor(next, { shape: [rows, 1] }));
    }
    return responses.map(({ tokens, ended }) => ({ tokens: Int32Array.from(tokens), ended }));
  }

  /** Moves what still runs into the smallest batch that holds it; returns which. @param t tokens drawn but the last, which is not cached */
  async #shrink(level: number, running: { slot: number; prompt: Int32Array }[], t: number): Promise<number> {
    let next = level;
    while (next + 1 < this.#batches.length && this.#batches[next + 1]!.rows >= running.length) next++;
    if (next === level) return level;
    const { rows } = this.#batches[next]!;
    const index = new Int32Array(rows).fill(running[0]!.slot);
    const lengths = new Int32Array(rows).fill(running[0]!.prompt.length + t);
    running.forEach((row, i) => {
      index[i] = row.slot;
      lengths[i] = row.prompt.length + t;
      row.slot = i;
    });
    await this.#batches[next]!.take(this.#batches[level]!, index, lengths);
    return next;
  }

  [Symbol.dispose](): void {
    for (const batch of this.#batches) batch[Symbol.dispose]();
  }
}
