import { cast } from "../ops/elementwise.js";
import { Parameter } from "../tensor/tensor.js";
import { compile } from "./compile.js";

/**
 * bf16 copies of f32 weights, for programs that multiply by them again and again: products of few rows take as long as reading
 * their weights does. Sums stay f32.
 */
export class WeightCopies implements Disposable {
  readonly #copies = new Map<Parameter, Parameter>();

  /** The copy of `weight`; made at the first call, with the value of that moment. */
  of(weight: Parameter): Parameter {
    let copy = this.#copies.get(weight);
    if (!copy) {
      copy = new Parameter(weight.shape, { dtype: "bf16", trainable: false });
      copy.assign(cast(weight, "bf16"));
      this.#copies.set(weight, copy);
    }
    return copy;
  }

  readonly #round = compile((_copies: number) => {
    for (const [weight, copy] of this.#copies) copy.assign(cast(weight, "bf16"));
  });

  /** Enqueues copying all weights as they are now. */
  async refresh(): Promise<void> {
    if (this.#copies.size > 0) await this.#round(this.#copies.size);
  }

  /** Frees the copies now. */
  [Symbol.dispose](): void {
    for (const copy of this.#copies.values()) copy.dispose();
    this.#copies.clear();
  }
}
