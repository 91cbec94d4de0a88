import { defaultDevice } from "../device/index.js";
import { type CompiledFunction, compile } from "../graph/compile.js";
import { RandomGenerator } from "../graph/random.js";
import { WeightCopies } from "../graph/weight-copies.js";
import { KeyValueCache } from "../nn/self-attention.js";
import { requireOptions } from "../ops/check-arguments.js";
import { add } from "../ops/elementwise.js";
import { iota } from "../ops/indexing.js";
import { reshape } from "../ops/movement.js";
import type { SamplingOptions } from "../ops/random.js";
import { InvalidUseError } from "../tensor/errors.js";
import { full, Parameter, type Tensor, tensor } from "../tensor/tensor.js";
import type { CausalLM } from "./causal-lm.js";

/** What generation needs of a model; one that conditions a language model on something else has it too. */
export type GenerativeModel = Pick<CausalLM, "config" | "hidden" | "logitsAt">;

export interface GeneratorOptions {
  /** Dtype of the key-value cache; bf16 halves its memory. Default f32. */
  cacheDtype?: "f32" | "bf16";
  /**
   * How matrices are stored while generating. Small batches wait for their weights to be read, and bf16 halves the bytes; weights
   * are then rounded to 8 bits of significand, and every sum stays f32. Each call of `generate` copies the weights as they are
   * then, which takes as long as a token or two. Default f32, without copies.
   */
  weights?: "f32" | "bf16";
}

export interface GenerateOptions extends SamplingOptions {
  /** Tokens to add to each prompt at most. */
  maxNewTokens: number;
  /** A row ends after one of these. */
  eosTokenIds?: readonly number[];
  /** Seed of the sampler. Default 0. */
  seed?: number;
  /** Called with every new token: row, token id, log-probability at temperature 1. */
  onToken?: (row: number, token: number, logProbability: number) => void;
  /** Stops between tokens; what was generated so far is returned. */
  signal?: AbortSignal;
}

export interface Generation {
  /** New tokens, the ending token included. */
  tokens: Int32Array;
  /** Log-probability of each under the unfiltered distribution at temperature 1. */
  logProbabilities: Float32Array;
  /** Whether an ending token was drawn. */
  finished: boolean;
}

/** Prompts are padded up to a multiple of this, so that a few programs serve all lengths. */
const lengthQuantum = 32;
/** Decoding steps enqueued before the first is awaited: hides the way back to JavaScript. */
const stepsAhead = 2;

const roundUp = (value: number, quantum: number): number => Math.ceil(value / quantum) * quantum;

const optionNames = Object.keys({
  ...{ maxNewTokens: 1, temperature: 1, topK: 1, topP: 1, eosTokenIds: 1, seed: 1, onToken: 1, signal: 1 },
  ...{ cacheDtype: 1, weights: 1 },
} satisfies Record<keyof (GenerateOptions & GeneratorOptions), 1>);

/** For callers without types: texts would be read as zeros, and an option that is overlooked changes the result. */
function requireArguments(prompts: readonly Int32Array[], options: object): void {
  requireOptions("generate", options, optionNames, "{ maxNewTokens: 100, temperature: 0.7 }");
  const row = Array.isArray(prompts) ? prompts.findIndex((prompt) => !(prompt instanceof Int32Array)) : 0;
  if (row < 0) return;
  throw new InvalidUseError(
    `prompt ${row} is no Int32Array of tokens: encode text with the model's tokenizer, one prompt to a row`,
  );
}

function requireTokenCount(count: number): void {
  if (!(Number.isSafeInteger(count) && count >= 0))
    throw new InvalidUseError(`maxNewTokens is ${count}; it must be a whole number >= 0`);
}

const longestOf = (prompts: readonly Int32Array[]): number =>
  prompts.reduce((longest, { length }) => Math.max(longest, length), 0);

interface Drawn {
  token: Tensor;
  logProbability: Tensor;
}

/**
 * Batched generation with a key-value cache, for one batch size and length; programs are kept between calls. Calls that overlap run one
 * after another: they share the cache.
 */
export class Generator implements Disposable {
  readonly batch: number;
  /** Prompt plus new tokens, at most. */
  readonly maxLength: number;
  readonly #model: GenerativeModel;
  readonly #caches: KeyValueCache[];
  readonly #token: Parameter;
  readonly #lengths: Parameter;
  readonly #random = new RandomGenerator(0);
  readonly #weights: WeightCopies | undefined;
  readonly #prefill: CompiledFunction<[tokens: Tensor, lengths: Tensor, sampling: SamplingOptions], Drawn>;
  readonly #decode: CompiledFunction<[sampling: SamplingOptions], Drawn>;
  /** Settles when the calls so far are done. */
  #busy: Promise<unknown> = Promise.resolve();

  constructor(model: GenerativeModel, batch: number, maxLength: number, options: GeneratorOptions = {}) {
    const { cacheDtype = "f32", weights = "f32" } = options;
    const { keyValueHeads, headDim, layers, maxPositions } = model.config;
    if (maxLength > maxPositions) {
      throw new InvalidUseError(`prompt and new tokens take ${maxLength} positions; the model has ${maxPositions}`);
    }
    this.#model = model;
    this.batch = batch;
    this.maxLength = Math.min(roundUp(maxLength, lengthQuantum), maxPositions);
    this.#caches = Array.from(
      { length: layers },
      () => new KeyValueCache([batch, this.maxLength, keyValueHeads, headDim], cacheDtype),
    );
    this.#token = new Parameter([batch, 1], { dtype: "i32", trainable: false });
    this.#lengths = new Parameter([batch], { dtype: "i32", trainable: false });
    this.#weights = weights === "bf16" ? new WeightCopies() : undefined;
    this.#prefill = compile(this.#prefillStep, { weights: this.#weights });
    this.#decode = compile(this.#decodeStep, { weights: this.#weights });
  }

  /** Runs the prompts, right-padded to one length, and draws the first new token of each row. */
  readonly #prefillStep = (tokens: Tensor, lengths: Tensor, sampling: SamplingOptions): Drawn => {
    const [batch, sequence] = tokens.shape as [number, number];
    const caches = this.#at(full([batch], 0, "i32"), full([batch], sequence, "i32"));
    const { hidden } = this.#model.hidden(tokens, { caches });
    // Row of the last prompt token: b * sequence + length - 1.
    const last = add(add(iota(batch).mul(sequence), lengths), -1);
    this.#lengths.assign(lengths);
    return this.#draw(this.#model.logitsAt(hidden, last), sampling);
  };

  readonly #decodeStep = (sampling: SamplingOptions): Drawn => {
    const lengths = add(this.#lengths, 1);
    const caches = this.#at(this.#lengths, lengths);
    const { hidden } = this.#model.hidden(this.#token, { caches, positions: reshape(this.#lengths, [this.batch, 1]) });
    const logits = this.#model.logitsAt(hidden, iota(this.batch));
    this.#lengths.assign(lengths);
    return this.#draw(logits, sampling);
  };

  // The CPU keeps its three products, and with them the bits of its results.
  #at(start: Tensor, lengths: Tensor) {
    const joined = this.#weights !== undefined && defaultDevice().activations === "bf16";
    return { layers: this.#caches, start, lengths, joined };
  }

  #draw(logits: Tensor, sampling: SamplingOptions): Drawn {
    const drawn = this.#random.sampleTokens(logits, sampling);
    this.#token.assign(reshape(drawn.token, [this.batch, 1]));
    return drawn;
  }

  /** @param prompts `batch` rows of at least one token */
  async generate(prompts: readonly Int32Array[], options: GenerateOptions): Promise<Generation[]> {
    const result = this.#busy.then(() => this.#generate(prompts, options));
    this.#busy = result.catch(() => undefined);
    return await result;
  }

  async #generate(prompts: readonly Int32Array[], options: GenerateOptions): Promise<Generation[]> {
    requireArguments(prompts, options);
    const { maxNewTokens, eosTokenIds = [], seed = 0, onToken, signal } = options;
    if (prompts.length !== this.batch)
      throw new InvalidUseError(`got ${prompts.length} prompts for a batch of ${this.batch}`);
    const empty = prompts.findIndex((prompt) => prompt.length === 0);
    if (empty >= 0) throw new InvalidUseError(`prompt ${empty} is empty; start it with the beginning-of-text token`);
    requireTokenCount(maxNewTokens);
    const longest = longestOf(prompts);
    if (longest + maxNewTokens > this.maxLength) {
      throw new InvalidUseError(
        `a prompt of ${longest} and ${maxNewTokens} new tokens exceed the cache of ${this.maxLength} positions`,
      );
    }
    const sampling: SamplingOptions = {
      temperature: options.temperature ?? 1,
      topK: options.topK ?? 0,
      topP: options.topP ?? 1,
    };
    const sequence = Math.min(roundUp(longest, lengthQuantum), this.maxLength);
    const padded = new Int32Array(this.batch * sequence);
    prompts.forEach((prompt, row) => {
      padded.set(prompt, row * sequence);
    });
    this.#random.seed(seed);
    await this.#weights?.refresh();
    const lengths = Int32Array.from(prompts, (prompt) => prompt.length);
    const rows = prompts.map(() => ({ tokens: [] as number[], logProbabilities: [] as number[], finished: false }));
    const inFlight: Promise<Drawn>[] = [];
    const enqueue = (run: Promise<Drawn>): void => {
      // Where one fails the others are never awaited.
      run.catch(() => undefined);
      inFlight.push(run);
    };
    enqueue(this.#prefill(tensor(padded, { shape: [this.batch, sequence] }), tensor(lengths), sampling));
    for (let step = 0; step < maxNewTokens && !signal?.aborted && rows.some(({ finished }) => !finished); step++) {
      while (inFlight.length <= stepsAhead && step + inFlight.length < maxNewTokens) enqueue(this.#decode(sampling));
      const { token, logProbability } = await inFlight.shift()!;
      const [drawn, scores] = [await token.data(), await logProbability.data()];
      rows.forEach((row, i) => {
        if (row.finished) return;
        row.tokens.push(drawn[i]!);
        row.logProbabilities.push(scores[i]!);
        row.finished = eosTokenIds.includes(drawn[i]!);
        onToken?.(i, drawn[i]!, scores[i]!);
      });
    }
    await Promise.all(inFlight);
    return rows.map((row) => ({
      tokens: Int32Array.from(row.tokens),
      logProbabilities: Float32Array.from(row.logProbabilities),
      finished: row.finished,
    }));
  }

  /** Frees the caches and copies now. */
  dispose(): void {
    for (const cache of [...this.#caches, this.#token, this.#lengths, this.#random.state]) cache.dispose();
    this.#weights?.[Symbol.dispose]();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }
}

/** Generates from `prompts` once. For many calls of one size keep a `Generator`. */
export async function generate(
  model: GenerativeModel,
  prompts: readonly Int32Array[],
  options: GenerateOptions & GeneratorOptions,
): Promise<Generation[]> {
  requireArguments(prompts, options);
  requireTokenCount(options.maxNewTokens);
  if (prompts.length === 0) return [];
  const longest = longestOf(prompts);
  using generator = new Generator(model, prompts.length, longest + options.maxNewTokens, options);
  return await generator.generate(prompts, options);
}
