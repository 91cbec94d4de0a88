import {
  type CausalLM,
  compile,
  full,
  iota,
  KeyValueCache,
  logSoftmax,
  reshape,
  type Tensor,
  tensor,
} from "@trefoil/core";
import { StageError } from "../stages/errors.js";
import type { EnsembleMean } from "./score.js";
import { keepLargest, mixGeometrically, mixProbabilities, Posterior } from "./weights.js";

export interface EnsembleGenerateOptions {
  maxNewTokens: number;
  /** 0: always the likeliest token. Default 0. */
  temperature?: number;
  /** Default arithmetic. */
  mean?: EnsembleMean;
  /** How much each model counts; absent: the posterior, token by token. */
  weights?: readonly number[];
  /** Of the posterior: models that count. Default: all. */
  topK?: number;
  prior?: readonly number[];
  eosTokenIds?: readonly number[];
  /** Uniform in [0, 1): draws tokens where the temperature is above 0. */
  random?: () => number;
  onToken?: (token: number) => void;
  signal?: AbortSignal;
}

/** One model of the ensemble with its key-value cache, for one row. */
class Decoder implements Disposable {
  readonly #caches: KeyValueCache[];
  readonly #run;

  constructor(model: CausalLM, positions: number) {
    const { layers, keyValueHeads, headDim } = model.config;
    this.#caches = Array.from({ length: layers }, () => new KeyValueCache([1, positions, keyValueHeads, headDim]));
    this.#run = compile((tokens: Tensor, start: Tensor) => {
      const sequence = tokens.shape[1]!;
      const { hidden } = model.hidden(tokens, {
        caches: { layers: this.#caches, start, lengths: start.add(full([1], sequence, "i32")) },
        positions: reshape(iota(sequence).add(start), [1, sequence]),
      });
      return logSoftmax(model.logitsAt(hidden, iota(sequence)));
    });
  }

  /** @returns log-probabilities of what follows each token, [tokens * vocabulary] */
  async read(tokens: readonly number[], start: number): Promise<Float32Array> {
    const rows = await this.#run(
      tensor(Int32Array.from(tokens), { shape: [1, tokens.length] }),
      tensor(Int32Array.of(start)),
    );
    return (await rows.data()) as Float32Array;
  }

  [Symbol.dispose](): void {
    for (const cache of this.#caches) cache.dispose();
  }
}

/**
 * Continues a prompt with the mean of the models' probabilities, `p(x_t) = Σ_j w_j p_j(x_t)` or its geometric kind. A model whose given weight is 0 is not
 * run. @returns new tokens, the ending one included @throws StageError when the text does not fit a model's context
 */
export async function generateFromEnsemble(
  models: readonly CausalLM[],
  prompt: Int32Array,
  options: EnsembleGenerateOptions,
): Promise<number[]> {
  const { maxNewTokens, temperature = 0, topK = models.length, eosTokenIds = [], onToken, signal } = options;
  const { mean = "arithmetic", random = Math.random } = options;
  const length = prompt.length + maxNewTokens;
  const room = Math.min(...models.map(({ config }) => config.maxPositions));
  if (prompt.length === 0) throw new StageError("BTX_OPTIONS", "the prompt is empty: give at least one token");
  if (length > room)
    throw new StageError("BTX_OPTIONS", `prompt and new tokens are ${length}, the models have ${room} positions`);
  const used = models.flatMap((_, j) => (options.weights && !(options.weights[j]! > 0) ? [] : [j]));
  const given = options.weights && used.map((j) => options.weights![j]!);
  const prior = options.prior && used.map((j) => options.prior![j]!);
  const decoders = used.map((j) => new Decoder(models[j]!, length));
  const vocabulary = models[0]!.config.vocabSize;
  const posterior = new Posterior(used.length, prior);
  const generated: number[] = [];
  try {
    let fresh = Array.from(prompt);
    let seen = 0;
    while (generated.length < maxNewTokens && !signal?.aborted) {
      const logs = await Promise.all(decoders.map((decoder) => decoder.read(fresh, seen)));
      for (let i = 1; i < fresh.length; i++)
        posterior.observe(logs.map((rows) => rows[(i - 1) * vocabulary + fresh[i]!]!));
      seen += fresh.length;
      const last = logs.map((rows) => rows.subarray((fresh.length - 1) * vocabulary));
      const weights = given ?? keepLargest(posterior.weights, topK);
      const probabilities =
        mean === "geometric"
          ? mixGeometrically(weights, last)
          : mixProbabilities(
              weights,
              last.map((row) => row.map(Math.exp)),
            );
      const token = draw(probabilities, temperature, random);
      posterior.observe(last.map((row) => row[token]!));
      generated.push(token);
      onToken?.(token);
      if (eosTokenIds.includes(token)) break;
      fresh = [token];
    }
  } finally {
    for (const decoder of decoders) decoder[Symbol.dispose]();
  }
  return generated;
}

function draw(probabilities: Float64Array, temperature: number, random: () => number): number {
  const largest = probabilities.reduce((a, b) => Math.max(a, b));
  if (temperature === 0) return probabilities.indexOf(largest);
  // Relative to the largest: a power of them all would vanish at low temperatures.
  const powers = probabilities.map((probability) => (probability / largest) ** (1 / temperature));
  let left = random() * powers.reduce((a, b) => a + b, 0);
  const found = powers.findIndex((power) => {
    left -= power;
    return left < 0;
  });
  return found < 0 ? powers.length - 1 : found;
}
