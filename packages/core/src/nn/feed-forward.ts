import { linear } from "../ops/matmul.js";
import { swiglu } from "../ops/swiglu.js";
import { Parameter, type Tensor } from "../tensor/tensor.js";
import { Module } from "./module.js";
import { type InitialValues, sharedInitialValues } from "./random-init.js";

export interface FeedForwardOptions {
  hiddenSize: number;
  intermediateSize: number;
  standardDeviation: number;
  initial?: InitialValues;
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
  }: FeedForwardOptions) {
    super();
    const make = (shape: number[]) => new Parameter(shape, { data: initial.normal(shape, standardDeviation) });
    this.gateUpProj = make([2 * intermediateSize, hiddenSize]);
    this.downProj = make([hiddenSize, intermediateSize]);
  }

  forward(x: Tensor): Tensor {
    return linear(swiglu(linear(x, this.gateUpProj)), this.downProj);
  }
}
