import type { TokenBatch, Tokenizer } from "@trefoil/core";
import type { TfIdf } from "./tf-idf.js";
import { distanceWeights, keepLargest, Posterior } from "./weights.js";
import type { WindowNats } from "./windows.js";

/**
 * How an ensemble weighs its models:
 * - `bayes`: by the posterior of each model given the text so far (Branch-Train-Merge, arXiv 2208.03306)
 * - `cosine`: the k models whose training text has the tf-idf most like the context's, averaged (arXiv 2403.07816, §4.1.2)
 * - `distance`: `exp(-d² / T)` of tf-idf vectors (c-BTM, arXiv 2303.14177)
 * - `uniform`: all the same
 */
export const ensembleRules = ["bayes", "cosine", "distance", "uniform"] as const;
export type EnsembleRule = (typeof ensembleRules)[number];

/** `p = Σ w_j p_j`, or `p ∝ Π p_j^w_j` (a product of experts), normalised. */
export const ensembleMeans = ["arithmetic", "geometric"] as const;
export type EnsembleMean = (typeof ensembleMeans)[number];

export interface EnsembleOptions {
  rule: EnsembleRule;
  /** Models that count. Default: all. */
  topK?: number;
  /** Of `distance`. Default 0.1. */
  temperature?: number;
  /** Of `bayes`. Default: all the same. */
  prior?: readonly number[];
}

/** Weights by a rule that looks at the text as a whole; undefined for `bayes`, which changes with every token. */
export function textWeights(
  models: number,
  { rule, topK = models, temperature = 0.1 }: EnsembleOptions,
  tfIdf: TfIdf | undefined,
  text: () => string,
): number[] | undefined {
  if (rule === "bayes") return undefined;
  if (rule === "distance") return keepLargest(distanceWeights(tfIdf!.squaredDistances(text()), temperature), topK);
  if (rule === "uniform") return keepLargest(new Array<number>(models).fill(1), models);
  // Plain averaging of the models chosen.
  const kept = keepLargest(
    tfIdf!.cosines(text()).map((cosine) => cosine + 1),
    topK,
  );
  return keepLargest(
    kept.map((weight) => Number(weight > 0)),
    models,
  );
}

/** What weights are made from, beside the rule. */
export interface EnsembleText {
  /** Tokens at the beginning of a window that `cosine` and `distance` look at. */
  context: number;
  tokenizer: Tokenizer;
  tfIdf?: TfIdf;
}

/**
 * How much each model counts for each token: from the first `context` tokens of a window, under `bayes` from all tokens before the one
 * predicted.
 * @param models nats under each model, [models][window * sequence]
 * @returns [models][window * sequence], summing to 1 over models; 0 where nothing is predicted
 */
export function ensembleWeights(
  models: readonly WindowNats[],
  batches: readonly TokenBatch[],
  options: EnsembleOptions & EnsembleText,
): Float64Array[] {
  const { context, tokenizer, tfIdf, topK = models.length, prior } = options;
  const all = models.map((nats) => new Float64Array(nats.length));
  let at = 0;
  for (const { tokens, targets, batch, sequence } of batches) {
    for (let row = 0; row < batch; row++) {
      const posterior = new Posterior(models.length, prior);
      const text = () => tokenizer.decode(tokens.subarray(row * sequence, row * sequence + context));
      const fixed = textWeights(models.length, options, tfIdf, text);
      for (let i = 0; i < sequence; i++, at++) {
        if (targets[row * sequence + i]! < 0) continue;
        const weights = fixed ?? keepLargest(posterior.weights, topK);
        all.forEach((own, j) => {
          own[at] = weights[j]!;
        });
        posterior.observe(models.map((nats) => -nats[at]!));
      }
    }
  }
  return all;
}

/**
 * Nats of each token under the arithmetic mean, `-ln Σ_j w_j p_j(x_t)`.
 * @param models nats under each model, [models][window * sequence]
 */
export function ensembleNats(
  models: readonly WindowNats[],
  batches: readonly TokenBatch[],
  options: EnsembleOptions & EnsembleText,
): WindowNats {
  const weights = ensembleWeights(models, batches, options);
  return models[0]!.map((_, at) => {
    const least = Math.min(...models.map((nats, j) => (weights[j]![at]! > 0 ? nats[at]! : Number.POSITIVE_INFINITY)));
    if (least === Number.POSITIVE_INFINITY) return 0;
    return least - Math.log(models.reduce((sum, nats, j) => sum + weights[j]![at]! * Math.exp(least - nats[at]!), 0));
  });
}

/**
 * The mean posterior over some text, after each token: the cached prior of Branch-Train-Merge (arXiv 2208.03306, §3.3), and weights for
 * the parameter average.
 */
export function meanPosterior(models: readonly WindowNats[], batches: readonly TokenBatch[]): number[] {
  const sums = new Array<number>(models.length).fill(0);
  let count = 0;
  let at = 0;
  for (const { targets, batch, sequence } of batches) {
    for (let row = 0; row < batch; row++) {
      const posterior = new Posterior(models.length);
      for (let i = 0; i < sequence; i++, at++) {
        if (targets[row * sequence + i]! < 0) continue;
        posterior.observe(models.map((nats) => -nats[at]!));
        posterior.weights.forEach((weight, j) => {
          sums[j]! += weight;
        });
        count++;
      }
    }
  }
  return sums.map((sum) => sum / count);
}
