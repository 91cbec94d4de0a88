import { cast } from "../ops/elementwise.js";
import { concat } from "../ops/movement.js";
import { Parameter, type Tensor } from "../tensor/tensor.js";
import { compile } from "./compile.js";

/**
 * bf16 copies of f32 weights, for programs that multiply by them again and again: products of few rows take as long as reading
 * their weights does. Sums stay f32.
 */
export class WeightCopies implements Disposable {
  readonly #copies: { weights: readonly Parameter[]; copy: Parameter }[] = [];

  /** The copy of a weight, or of several joined along their first axis; made at the first call, with the values of that moment. */
  of(weights: readonly Parameter[]): Parameter {
    const known = this.#copies.find(
      (each) => each.weights.length === weights.length && each.weights.every((weight, i) => weight === weights[i]),
    );
    if (known) return known.copy;
    const rows = weights.reduce((total, weight) => total + weight.shape[0]!, 0);
    const copy = new Parameter([rows, ...weights[0]!.shape.slice(1)], { dtype: "bf16", trainable: false });
    copy.assign(rounded(weights));
    this.#copies.push({ weights, copy });
    return copy;
  }

  readonly #round = compile((_copies: number) => {
    for (const { weights, copy } of this.#copies) copy.assign(rounded(weights));
  });

  /** Enqueues copying all weights as they are now. */
  async refresh(): Promise<void> {
    if (this.#copies.length > 0) await this.#round(this.#copies.length);
  }

  /** Frees the copies now. */
  [Symbol.dispose](): void {
    for (const { copy } of this.#copies) copy.dispose();
    this.#copies.length = 0;
  }
}

const rounded = (weights: readonly Parameter[]): Tensor => concat(weights.map((weight) => cast(weight, "bf16")));
