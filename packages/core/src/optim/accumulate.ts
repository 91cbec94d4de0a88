import { requireTrace } from "../graph/trace.js";
import { add } from "../ops/elementwise.js";
import { Parameter, type Tensor } from "../tensor/tensor.js";
import { requireGradientsOf } from "./check-gradients.js";

/** Which part of a batch a program computes; `only` when it is not divided. */
export type BatchPart = "only" | "first" | "middle" | "last";

/** The parts of a batch that is computed in `count` turns. */
export function batchParts(count: number): BatchPart[] {
  if (count === 1) return ["only"];
  return Array.from({ length: count }, (_, i) => (i === 0 ? "first" : i === count - 1 ? "last" : "middle"));
}

/**
 * Sums gradients over the parts of a batch that is too large to compute at once. The sums live on the device between the parts' programs:
 * the first part writes them, others add, and the last adds on the way to the optimiser, so nothing is cleared and nothing read twice.
 */
export class GradientAccumulator implements Disposable {
  readonly #parameters: readonly Parameter[];
  readonly #sums: readonly Parameter[];

  constructor(parameters: readonly Parameter[]) {
    this.#parameters = parameters;
    this.#sums = parameters.map(({ shape }) => new Parameter(shape, { trainable: false }));
  }

  /**
   * Records one part. Use inside `compile`, with `part` as an argument of the compiled function.
   * @param gradients of the part's share of the loss, in the order of the parameters
   * @returns the sums, at the last part; undefined before
   */
  add(gradients: readonly Tensor[], part: BatchPart): readonly Tensor[] | undefined {
    requireGradientsOf("GradientAccumulator.add", this.#parameters, gradients);
    if (part === "only") return gradients;
    requireTrace("GradientAccumulator.add");
    const sums = part === "first" ? gradients : gradients.map((gradient, i) => add(gradient, this.#sums[i]!));
    if (part === "last") return sums;
    sums.forEach((sum, i) => {
      this.#sums[i]!.assign(sum);
    });
    return undefined;
  }

  /** Frees the sums. */
  [Symbol.dispose](): void {
    for (const sum of this.#sums) sum.dispose();
  }
}
