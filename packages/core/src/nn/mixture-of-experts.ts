import { add, multiply } from "../ops/elementwise.js";
import { groupedMatmul } from "../ops/grouped-matmul.js";
import { scatterLast } from "../ops/indexing.js";
import { linear } from "../ops/matmul.js";
import { type GateMode, moeCombine, moeGate, moeSort, routerProbabilities } from "../ops/moe.js";
import { concat, reshape, slice } from "../ops/movement.js";
import { mean, sum } from "../ops/reduce.js";
import { swiglu } from "../ops/swiglu.js";
import { full, ones, Parameter, type Tensor } from "../tensor/tensor.js";
import type { FeedForwardOptions } from "./feed-forward.js";
import { Module } from "./module.js";
import { sharedInitialValues } from "./random-init.js";

export interface MixtureOfExpertsOptions extends FeedForwardOptions {
  experts: number;
  topK: number;
  gateMode?: GateMode;
}

/** What the router decided for T tokens, K choices each. */
export interface Routing {
  /** What the router saw, [T, hidden]. */
  inputs: Tensor;
  /** [T, E] */
  logits: Tensor;
  /** i32 [T, K] */
  indices: Tensor;
  /** [T, K] */
  weights: Tensor;
}

/**
 * `Σ_e g_e(W x) FF_e(x)` over the top-K experts of each token (Branch-Train-MiX, arXiv 2403.07816, §3.2). Dropless: tokens
 * are sorted by expert and each expert sees one ragged block.
 */
export class MixtureOfExperts extends Module {
  /** Router, [E, hidden]. */
  readonly gate: Parameter;
  /** [E, 2 intermediate, hidden]: w1 (gate) rows, then w3 (up) rows. */
  readonly gateUpProj: Parameter;
  /** [E, hidden, intermediate]: w2. */
  readonly downProj: Parameter;
  readonly #options: MixtureOfExpertsOptions;

  constructor(options: MixtureOfExpertsOptions) {
    super();
    const { experts, hiddenSize, intermediateSize, standardDeviation, initial = sharedInitialValues() } = options;
    const make = (shape: number[]) => new Parameter(shape, { data: initial.normal(shape, standardDeviation) });
    this.gate = make([experts, hiddenSize]);
    this.gateUpProj = make([experts, 2 * intermediateSize, hiddenSize]);
    this.downProj = make([experts, hiddenSize, intermediateSize]);
    this.#options = options;
  }

  /** x [.., hidden] -> the same shape, and what the router decided. */
  forward(x: Tensor): { output: Tensor; routing: Routing } {
    const { experts, hiddenSize, topK, gateMode } = this.#options;
    const rows = reshape(x, [-1, hiddenSize]);
    const logits = linear(rows, this.gate);
    const { weights, indices } = moeGate(logits, topK, gateMode);
    const order = moeSort(indices, experts);
    const hidden = swiglu(groupedMatmul(rows, this.gateUpProj, order.offsets, { rowIndex: order.token }));
    const y = groupedMatmul(hidden, this.downProj, order.offsets);
    return {
      output: reshape(moeCombine(y, order, weights), x.shape),
      routing: { inputs: rows, logits, indices, weights },
    };
  }
}

/**
 * Forms of the balancing loss (they differ by a factor K, by what is counted, and by how layers add up):
 * - `btx`: `E Σ u_e p̄_e`, u the mean gate weight of each expert, differentiable (Branch-Train-MiX §3.3); summed over layers
 * - `switch`: `E Σ f_e p̄_e`, f the fraction of tokens whose first choice is e (Switch Transformer, arXiv 2101.03961, eq. 4); summed
 * - `hf`: f counts all K choices, and the tokens of all layers are one batch, as in transformers' Mixtral: balanced is K, once
 * - `megatron`: f counts all K choices, divided by K; summed over layers
 */
export type BalanceForm = "btx" | "switch" | "hf" | "megatron";

/** The balancing loss of all layers with coefficient 1: the number of layers when balanced (K for `hf`). */
export function balanceLoss(routing: readonly Omit<Routing, "inputs">[], form: BalanceForm): Tensor {
  if (form !== "hf") return routing.map((layer) => balanceOfBatch(layer, form)).reduce((a, b) => add(a, b));
  const together = (key: "logits" | "indices" | "weights") => concat(routing.map((layer) => layer[key]));
  return balanceOfBatch(
    { logits: together("logits"), indices: together("indices"), weights: together("weights") },
    form,
  );
}

function balanceOfBatch({ logits, indices, weights }: Omit<Routing, "inputs">, form: BalanceForm): Tensor {
  const [tokens, experts] = logits.shape as [number, number];
  const topK = indices.shape[1]!;
  // What each expert got of every token, [T, E], averaged over tokens.
  const used = (): Tensor => {
    if (form === "btx") return scatterLast(weights, indices, experts);
    if (form === "switch") return scatterLast(ones([tokens, 1]), slice(indices, 1, 0, 1), experts);
    return scatterLast(full([tokens, topK], form === "hf" ? 1 : 1 / topK), indices, experts);
  };
  const probability = mean(routerProbabilities(logits), { axes: 0 });
  return multiply(sum(multiply(mean(used(), { axes: 0 }), probability)), experts);
}
