import { add, type InitialValues, Linear, Module, multiply, RMSNorm, relu, sum, type Tensor } from "@trefoil/core";

/**
 * Adds to every position a sum over all of them: how much of what a picture shows already, so that two objects do not become three.
 * Attention takes means, of which counts are hard to tell.
 */
export class Overview extends Module {
  readonly norm: RMSNorm;
  readonly into: Linear;
  readonly out: Linear;

  constructor(width: number, initial: InitialValues) {
    super();
    this.norm = new RMSNorm(width);
    this.into = new Linear(width, width, { initial });
    this.out = new Linear(width, width, { bias: false, standardDeviation: 0.05, initial });
  }

  /** x [batch, positions, width] -> x + out(Σ relu(into(norm(x))) / √positions) */
  forward(x: Tensor): Tensor {
    const found = sum(relu(this.into.forward(this.norm.forward(x))), { axes: 1, keepDims: true });
    return add(x, this.out.forward(multiply(found, 1 / Math.sqrt(x.shape[1]!))));
  }
}
