import { add, broadcastTo, divide, multiply, square } from "../ops/elementwise.js";
import { scatterLast } from "../ops/indexing.js";
import { concat, reshape, slice } from "../ops/movement.js";
import { mean, sum } from "../ops/reduce.js";
import { logsumexp, softmax } from "../ops/softmax.js";
import { stopGradient } from "../ops/stop-gradient.js";
import { full, ones, type Tensor } from "../tensor/tensor.js";
import type { Routing } from "./mixture-of-experts.js";

/**
 * Forms of the balancing loss (they differ by a factor K, by what is counted, and by how layers add up):
 * - `btx`: `E Σ u_e p̄_e`, u the mean gate weight of each expert, differentiable (Branch-Train-MiX §3.3)
 * - `btx-detached`: the same, no gradient through u
 * - `switch`: f the fraction of tokens whose first choice is e in place of u (Switch Transformer, arXiv 2101.03961, eq. 4)
 * - `hf`: f counts all K choices, and the tokens of all layers are one batch, as in transformers' Mixtral: balanced is K, once
 * - `megatron`: f counts all K choices, divided by K (Megatron-LM, MegaBlocks)
 * - `per-token`: the mean over tokens of `E Σ g_e p_e`, as MixtureKit; it sharpens no balance between tokens
 */
export const balanceForms = ["btx", "btx-detached", "switch", "hf", "megatron", "per-token"] as const;
export type BalanceForm = (typeof balanceForms)[number];

export interface BalanceOptions {
  /** How layers add up: `sum` as the paper, `mean` as MegaBlocks. `hf` has one value for all. Default `sum`. */
  layers?: "sum" | "mean";
  /** [T], 1 or 0: tokens that count. Default: all. */
  mask?: Tensor;
}

type Decided = Omit<Routing, "inputs">;

/** The balancing loss of all layers with coefficient 1: the number of layers when balanced (K for `hf`). */
export function balanceLoss(routing: readonly Decided[], form: BalanceForm, options: BalanceOptions = {}): Tensor {
  const { layers = "sum", mask } = options;
  const parts = routing.map((layer) => ({ used: usedOf(layer, form), probability: softmax(layer.logits) }));
  if (form === "hf") {
    const together = (key: "used" | "probability") => concat(parts.map((part) => part[key]));
    const masks = mask && concat(parts.map(() => mask));
    return product(together("used"), together("probability"), masks);
  }
  const values = parts.map(({ used, probability }) =>
    form === "per-token"
      ? multiply(meanOverTokens(sum(multiply(used, probability), { axes: 1, keepDims: true }), mask), experts(used))
      : product(used, probability, mask),
  );
  return combine(
    values.map((value) => reshape(value, [])),
    layers,
  );
}

/** Router z-loss, `mean(logsumexp(l)²)` (ST-MoE, arXiv 2202.08906, eq. 5), of all layers with coefficient 1. */
export function zLoss(routing: readonly Pick<Routing, "logits">[], options: BalanceOptions = {}): Tensor {
  const { layers = "sum", mask } = options;
  const values = routing.map(({ logits }) =>
    reshape(meanOverTokens(reshape(square(logsumexp(logits)), [-1, 1]), mask), []),
  );
  return combine(values, layers);
}

function combine(values: readonly Tensor[], layers: "sum" | "mean"): Tensor {
  const total = values.reduce((a, b) => add(a, b));
  return layers === "sum" ? total : divide(total, values.length);
}

const experts = (perExpert: Tensor): number => perExpert.shape[1]!;

const product = (used: Tensor, probability: Tensor, mask: Tensor | undefined): Tensor =>
  multiply(sum(multiply(meanOverTokens(used, mask), meanOverTokens(probability, mask))), experts(used));

/** [T, n] to [n]. */
function meanOverTokens(x: Tensor, mask: Tensor | undefined): Tensor {
  if (!mask) return mean(x, { axes: 0 });
  const column = broadcastTo(reshape(mask, [-1, 1]), x.shape);
  return divide(sum(multiply(x, column), { axes: 0 }), sum(mask));
}

/** What each expert got of every token, [T, E]. */
function usedOf({ logits, indices, weights }: Decided, form: BalanceForm): Tensor {
  const [tokens, count] = logits.shape as [number, number];
  const topK = indices.shape[1]!;
  switch (form) {
    case "btx":
    case "per-token":
      return scatterLast(weights, indices, count);
    case "btx-detached":
      return stopGradient(scatterLast(weights, indices, count));
    case "switch":
      return scatterLast(ones([tokens, 1]), slice(indices, 1, 0, 1), count);
    case "hf":
      return scatterLast(ones([tokens, topK]), indices, count);
    case "megatron":
      return scatterLast(full([tokens, topK], 1 / topK), indices, count);
  }
}
