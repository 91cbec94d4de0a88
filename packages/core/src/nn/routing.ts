import type { RandomGenerator } from "../graph/random.js";
import { add, cast, divide, less, log, maximum, multiply, negate, subtract } from "../ops/elementwise.js";
import { gatherRows } from "../ops/indexing.js";
import { type Gate, moeGate, moeSort } from "../ops/moe.js";
import { reshape } from "../ops/movement.js";
import { InvalidUseError } from "../tensor/errors.js";
import type { Tensor } from "../tensor/tensor.js";

/**
 * How router logits become expert choices and gate weights (Branch-Train-MiX, arXiv 2403.07816, §3.2–3.3):
 * - `top-k`: softmax over the K largest logits, as in the paper and Mixtral
 * - `raw-top-k`: the K largest values of the softmax over all, not renormalised (arXiv 2410.07524, §3.4)
 * - `switch`: one expert, its weight the softmax value; in training an expert takes `ceil(capacityFactor T / E)` tokens, the rest
 *   are dropped: the residual passes (arXiv 2101.03961)
 * - `sample-top-1`: one expert; in training drawn by Gumbel-softmax, its weight the sample's value; else the likeliest, weight 1
 * - `soft`: every expert, weighted by the softmax
 */
export const routerKinds = ["top-k", "raw-top-k", "switch", "sample-top-1", "soft"] as const;
export type RouterKind = (typeof routerKinds)[number];

/** The rule of a mixture's routers; part of the model, kept in its `config.json`. */
export interface RouterConfig {
  kind: RouterKind;
  /** Of `switch`. Default 1.5, the paper's. */
  capacityFactor?: number;
  /** The first layer uses soft routing, whatever the others do, as the paper's Sample Top-1. */
  softFirstLayer?: boolean;
}

/** What a training step gives routers: present, they sample and drop; absent, they choose as at inference. */
export interface RouterTraining {
  /** Of Gumbel noise. */
  random: RandomGenerator;
  /** τ of the Gumbel-softmax, a scalar. */
  temperature: Tensor | number;
}

/** Experts that each token visits under a rule. */
export function choicesOf({ kind }: RouterConfig, experts: number, topK: number): number {
  if (kind === "soft") return experts;
  return kind === "switch" || kind === "sample-top-1" ? 1 : topK;
}

/** τ of step t = 0, 1, …: `max(floor, exp(-rate t))` (§3.3, after Jang et al.). Defaults are the paper's. */
export const gumbelTemperature = (step: number, { rate = 1e-4, floor = 0.5 } = {}): number =>
  Math.max(floor, Math.exp(-rate * step));

/** Router logits [T, E] to choices and weights by one rule. `softFirstLayer` is the caller's to apply. */
export function route(logits: Tensor, topK: number, config: RouterConfig, training?: RouterTraining): Gate {
  switch (config.kind) {
    case "top-k":
      return moeGate(logits, topK);
    case "raw-top-k":
      return moeGate(logits, topK, "softmax-topk");
    case "soft":
      return moeGate(logits, logits.shape[1]!);
    case "switch": {
      const gate = moeGate(logits, 1, "softmax-topk");
      return training ? withinCapacity(gate, logits.shape[1]!, config.capacityFactor ?? 1.5) : gate;
    }
    case "sample-top-1":
      return training ? sampleOne(logits, training) : moeGate(logits, 1);
  }
}

/** `z = softmax((l + g) / τ)`: the largest z, with its value as weight. */
function sampleOne(logits: Tensor, { random, temperature }: RouterTraining): Gate {
  // The generator gives 0 but never 1: below 2^-24 lies what rounds to 0.
  const uniform = maximum(random.uniform(logits.shape), 2 ** -25);
  const gumbel = negate(log(negate(log(uniform))));
  return moeGate(divide(add(logits, gumbel), temperature), 1, "softmax-topk");
}

/** Weight 0 for the tokens that come after an expert is full, in the order of the batch. */
function withinCapacity({ weights, indices }: Gate, experts: number, capacityFactor: number): Gate {
  if (!(capacityFactor > 0)) throw new InvalidUseError(`the capacity factor is ${capacityFactor}; it must be above 0`);
  const tokens = indices.shape[0]!;
  const { inverse, offsets } = moeSort(indices, experts);
  const first = gatherRows(reshape(cast(offsets, "f32"), [experts + 1, 1]), indices);
  const rank = subtract(reshape(cast(inverse, "f32"), [tokens, 1]), reshape(first, [tokens, 1]));
  return { weights: multiply(weights, less(rank, Math.ceil((capacityFactor * tokens) / experts))), indices };
}
