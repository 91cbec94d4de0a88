import { createHash } from "node:crypto";
import {
  add,
  advanceRandom,
  type CausalLM,
  cast,
  compile,
  full,
  gatherRows,
  InvalidUseError,
  iota,
  KeyValueCache,
  Parameter,
  philox,
  reshape,
  sampleTokens,
  type Tensor,
  tensor,
} from "@trefoil/core";

export interface SamplingSettings {
  /** Logits are divided by this; 0: greedy. */
  temperature: number;
  /** Draw from the k likeliest tokens only; 0: all. Default 0. */
  topK?: number;
  /** Draw from the smallest set of tokens of at least this probability; 1: all. Default 1. */
  topP?: number;
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

/** State of a response's random numbers before its first token: it depends on seed, stream, prompt and sample, never on the batch. */
function responseState(prompt: Int32Array, sample: number, seed: number, stream: number): readonly [number, number] {
  const digest = hashTokens(prompt);
  const words = [Number.parseInt(digest.slice(0, 8), 16), Number.parseInt(digest.slice(8, 16), 16)] as const;
  const [low, high] = philox([sample, 0, words[0], words[1]], [seed, stream]);
  return [low | 0, high | 0];
}

/** Prompts are padded by at most an eighth: few programs serve all lengths. */
function roundUp(value: number): number {
  const quantum = Math.max(1, 2 ** Math.ceil(Math.log2(value)) / 16);
  return Math.ceil(value / quantum) * quantum;
}

/** How tokens are drawn; part of the compiled step. */
type Drawing = Required<Pick<SamplingSettings, "temperature" | "topK" | "topP">>;

/** Rows that decode together, with their keys and values. Tokens stay on the device from one step to the next. */
class DecodeBatch implements Disposable {
  readonly rows: number;
  readonly #model: CausalLM;
  readonly #caches: KeyValueCache[];
  /** i32 [rows]: tokens in the cache. */
  readonly #lengths: Parameter;
  /** i32 [rows, 4]: a state of random numbers to each row. */
  readonly #states: Parameter;
  /** i32 [rows, 1]: drawn last, not in the cache yet. */
  readonly #token: Parameter;

  constructor(model: CausalLM, rows: number, positions: number) {
    const { keyValueHeads, headDim, layers } = model.config;
    this.rows = rows;
    this.#model = model;
    this.#caches = Array.from({ length: layers }, () => new KeyValueCache([rows, positions, keyValueHeads, headDim]));
    const integers = (shape: number[]) => new Parameter(shape, { dtype: "i32", trainable: false });
    [this.#lengths, this.#states, this.#token] = [integers([rows]), integers([rows, 4]), integers([rows, 1])];
  }

  /** Puts prompts, i32 [rows, sequence], into the cache; what is behind their ends there is written over by new tokens. */
  readonly prefill = compile((tokens: Tensor) => {
    const [batch, sequence] = tokens.shape as [number, number];
    const caches = { layers: this.#caches, start: full([batch], 0, "i32"), lengths: full([batch], sequence, "i32") };
    this.#model.hidden(tokens, { caches });
    return iota(1);
  });

  /**
   * What the next step works on.
   * @param lengths [rows]: tokens in the cache
   * @param states [rows, 4]
   * @param tokens [rows]: what comes next; default: what was drawn
   */
  start(lengths: Int32Array, states: Int32Array, tokens?: Int32Array): void {
    this.#lengths.set(lengths);
    this.#states.set(states);
    if (tokens) this.#token.set(tokens);
  }

  /** One more token of each row, i32 [rows]. */
  readonly decode = compile((drawing: Drawing) => {
    const lengths = add(this.#lengths, 1);
    const caches = { layers: this.#caches, start: this.#lengths, lengths };
    const { hidden } = this.#model.hidden(this.#token, { caches, positions: reshape(this.#lengths, [this.rows, 1]) });
    this.#lengths.assign(lengths);
    const { token } = sampleTokens(this.#model.logitsAt(hidden, iota(this.rows)), this.#states, 0, drawing);
    this.#token.assign(reshape(token, [this.rows, 1]));
    this.#states.assign(advanceRandom(this.#states));
    return token;
  });

  readonly #copyRows = compile((from: DecodeBatchContent, index: Tensor) => {
    this.#caches.forEach((cache, layer) => {
      const copy = (source: Tensor, target: Parameter): void => {
        const rows = gatherRows(reshape(source, [source.shape[0]!, -1]), index);
        target.assign(reshape(rows, target.shape));
      };
      copy(from.caches[layer]!.keys, cache.keys);
      copy(from.caches[layer]!.values, cache.values);
    });
    // Token ids are small enough to be exact as floats.
    this.#token.assign(cast(gatherRows(cast(from.token, "f32"), index), "i32"));
    return iota(1);
  });

  /** Takes over cache and tokens of another batch: row i is row `index[i]` of it. */
  async take(from: DecodeBatch, index: Int32Array): Promise<void> {
    const caches = from.#caches.map(({ keys, values }) => ({ keys, values }));
    await this.#copyRows({ caches, token: from.#token }, tensor(index));
  }

  [Symbol.dispose](): void {
    for (const part of [...this.#caches, this.#lengths, this.#states, this.#token]) part.dispose();
  }
}
type DecodeBatchContent = { caches: readonly { keys: Tensor; values: Tensor }[]; token: Tensor };

/** Batches of half the rows are made down to this many: below, a row costs next to nothing. */
const smallestBatch = 8;

/** Steps enqueued at a time, the awaited one included: the device does not wait for JavaScript. */
const stepsAhead = 2;

/** A response in the making. */
interface RunningRow {
  readonly prompt: Int32Array;
  readonly state: readonly [number, number];
  readonly tokens: number[];
  ended: boolean;
}

/**
 * Batched sampling with a key-value cache, where each response has random numbers of its own: the same prompt, sample and seed give
 * the same response in any batch. A prompt that is asked for several times is run once. Rows that have ended leave the batch when half of it is left. The model may be trained between calls.
 */
export class Sampler implements Disposable {
  readonly batch: number;
  readonly #positions: number;
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
    this.#positions = Math.min(maxPositions, roundUp(longestPrompt) + maxNewTokens);
    for (let rows = batch; rows === batch || rows >= smallestBatch; rows = Math.ceil(rows / 2)) {
      this.#batches.push(new DecodeBatch(model, rows, this.#positions));
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
    const { temperature, topK = 0, topP = 1, maxNewTokens, eosTokenIds, seed, stream } = settings;
    const drawing = { temperature, topK, topP };
    const rows = requests.map(({ prompt, sample }): RunningRow => {
      if (prompt.length === 0) {
        throw new InvalidUseError("a prompt is empty; start it with the beginning-of-text token");
      }
      return { prompt, state: responseState(prompt, sample, seed, stream), tokens: [], ended: false };
    });
    let batch = await this.#start(rows);
    let enqueued = 0;
    // The slots of a step are those of the batch that ran it: rows may move before its tokens are read.
    let running = rows.map((row, slot) => ({ row, slot }));
    const inFlight: { token: Promise<Tensor>; running: typeof running }[] = [];
    const enqueue = (): void => {
      const token = batch.decode(drawing);
      // Where one fails the others are never awaited.
      token.catch(() => undefined);
      inFlight.push({ token, running });
      enqueued++;
    };
    enqueue();
    for (let step = inFlight.shift(); step; step = inFlight.shift()) {
      while (inFlight.length < stepsAhead - 1 && enqueued < maxNewTokens) enqueue();
      const drawn = await (await step.token).data();
      for (const { row, slot } of step.running) {
        if (row.ended) continue;
        const token = drawn[slot]!;
        row.tokens.push(token);
        row.ended = eosTokenIds.includes(token);
      }
      const left = running.filter(({ row }) => !row.ended);
      if (left.length === 0) break;
      const smaller = this.#batches.findLast(({ rows: size }) => size >= left.length)!;
      if (smaller.rows < batch.rows && enqueued < maxNewTokens) {
        running = await this.#move(batch, smaller, left, enqueued);
        batch = smaller;
      }
    }
    await Promise.all(inFlight.map(({ token }) => token));
    return rows.map(({ tokens, ended }) => ({ tokens: Int32Array.from(tokens), ended }));
  }

  /** A batch whose row i is about to decode the last token of row i's prompt. What comes before is run once for equal prompts. */
  async #start(rows: readonly RunningRow[]): Promise<DecodeBatch> {
    const holding = (count: number) => this.#batches.findLast(({ rows: size }) => size >= count)!;
    const batch = holding(rows.length);
    const slots = new Map<string, number>();
    const index = new Int32Array(batch.rows);
    rows.forEach(({ prompt }, i) => {
      const key = prompt.join();
      index[i] = slots.get(key) ?? slots.size;
      slots.set(key, index[i]);
    });
    const shared = holding(slots.size);
    const apart = shared.rows < batch.rows;
    const longest = Math.max(...rows.map(({ prompt }) => prompt.length));
    const width = Math.min(roundUp(longest - 1), this.#positions);
    const padded = new Int32Array(shared.rows * width);
    const [lengths, tokens] = [new Int32Array(batch.rows), new Int32Array(batch.rows)];
    const states = new Int32Array(batch.rows * 4);
    rows.forEach(({ prompt, state }, i) => {
      padded.set(prompt.subarray(0, -1), (apart ? index[i]! : i) * width);
      lengths[i] = prompt.length - 1;
      tokens[i] = prompt.at(-1)!;
      states.set(state, i * 4);
    });
    if (width > 0) await shared.prefill(tensor(padded, { shape: [shared.rows, width] }));
    if (apart) await batch.take(shared, index);
    batch.start(lengths, states, tokens);
    return batch;
  }

  /** Moves what still runs into a smaller batch. @param drawn tokens of each row that the device has drawn; the last is not cached */
  async #move(
    from: DecodeBatch,
    to: DecodeBatch,
    running: readonly { row: RunningRow; slot: number }[],
    drawn: number,
  ): Promise<{ row: RunningRow; slot: number }[]> {
    const [index, lengths] = [new Int32Array(to.rows), new Int32Array(to.rows)];
    const states = new Int32Array(to.rows * 4);
    for (let slot = 0; slot < to.rows; slot++) {
      // Rows beyond those that run repeat the first, unread.
      const { row, slot: old } = running[slot] ?? running[0]!;
      index[slot] = old;
      lengths[slot] = row.prompt.length + drawn - 1;
      states.set([...row.state, drawn, 0], slot * 4);
    }
    await to.take(from, index);
    to.start(lengths, states);
    return running.map(({ row }, slot) => ({ row, slot }));
  }

  [Symbol.dispose](): void {
    for (const batch of this.#batches) batch[Symbol.dispose]();
  }
}
