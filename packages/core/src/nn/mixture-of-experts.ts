import { groupedMatmul } from "../ops/grouped-matmul.js";
import { linear } from "../ops/matmul.js";
import { moeCombine, moeSort } from "../ops/moe.js";
import { reshape } from "../ops/movement.js";
import { swiglu } from "../ops/swiglu.js";
import { Parameter, type Tensor } from "../tensor/tensor.js";
import type { FeedForwardOptions } from "./feed-forward.js";
import { Module } from "./module.js";
import { sharedInitialValues } from "./random-init.js";
import { type RouterConfig, type RouterTraining, route } from "./routing.js";

export interface MixtureOfExpertsOptions extends Omit<FeedForwardOptions, "gateUpProj" | "downProj"> {
  experts: number;
  topK: number;
  /** Default `top-k`. */
  router?: RouterConfig;
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
 * `Σ_e g_e(W x) FF_e(x)` over the experts that the router chooses for each token (Branch-Train-MiX, arXiv 2403.07816, §3.2).
 * Tokens are sorted by expert and each expert sees one ragged block; a token that is dropped has the gate weight 0.
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

  /** x [.., hidden] -> the same shape, and what the router decided. @param training absent: routes as at inference */
  forward(x: Tensor, training?: RouterTraining): { output: Tensor; routing: Routing } {
    const { experts, hiddenSize, topK, router = { kind: "top-k" } } = this.#options;
    const rows = reshape(x, [-1, hiddenSize]);
    const logits = linear(rows, this.gate);
    const { weights, indices } = route(logits, topK, router, training);
    const order = moeSort(indices, experts);
    const hidden = swiglu(groupedMatmul(rows, this.gateUpProj, order.offsets, { rowIndex: order.token }));
    const y = groupedMatmul(hidden, this.downProj, order.offsets);
    return {
      output: reshape(moeCombine(y, order, weights), x.shape),
      routing: { inputs: rows, logits, indices, weights },
    };
  }
}
