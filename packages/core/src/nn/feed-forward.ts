import { linear } from "../ops/matmul.js";
import { swiglu } from "../ops/swiglu.js";
import { ShapeError } from "../tensor/errors.js";
import { sameShape } from "../tensor/shape.js";
import { Parameter, type Tensor } from "../tensor/tensor.js";
import { Module } from "./module.js";
import { type InitialValues, sharedInitialValues } from "./random-init.js";

export interface FeedForwardOptions {
  hiddenSize: number;
  intermediateSize: number;
  standardDeviation: number;
  initial?: InitialValues;
  /** Parameters to use instead of new ones, as where a subclass with adapters takes another layer's place. */
  gateUpProj?: Parameter;
  downProj?: Parameter;
}

/** `(silu(x Wgᵀ) ⊙ (x Wuᵀ)) Wdᵀ`: the SwiGLU feed-forward layer of Llama, gate and up in one matmul. */
export class FeedForward extends Module {
  /** [2 intermediate, hidden]: gate rows, then up rows. On disk they are `gate_proj` and `up_proj`. */
  readonly gateUpProj: Parameter;
  /** [hidden, intermediate] */
  readonly downProj: Parameter;

  constructor({
    hiddenSize,
    intermediateSize,
    standardDeviation,
    initial = sharedInitialValues(),
    gateUpProj,
    downProj,
  }: FeedForwardOptions) {
    super();
    const take = (given: Parameter | undefined, shape: number[]) => {
      if (given && !sameShape(given.shape, shape))
        throw new ShapeError("FeedForward", "a given parameter does not fit the sizes", [given.shape, shape]);
      return given ?? new Parameter(shape, { data: initial.normal(shape, standardDeviation) });
    };
    this.gateUpProj = take(gateUpProj, [2 * intermediateSize, hiddenSize]);
    this.downProj = take(downProj, [hiddenSize, intermediateSize]);
  }

  forward(x: Tensor): Tensor {
    return linear(swiglu(linear(x, this.gateUpProj)), this.downProj);
  }
}
