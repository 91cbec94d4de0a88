import { type Conv2dOptions, conv2d } from "../ops/conv2d.js";
import { groupNorm } from "../ops/group-norm.js";
import { Parameter, type Tensor } from "../tensor/tensor.js";
import { Module } from "./module.js";
import { type InitialValues, sharedInitialValues } from "./random-init.js";

export interface Conv2dLayerOptions extends Conv2dOptions {
  /** Width and height of the window. Default 3. */
  kernelSize?: number;
  /** Default true. */
  bias?: boolean;
  initial?: InitialValues;
}

/** 2-D convolution of channels-last images, [N, H, W, in] -> [N, H', W', out]. Initial values uniform on ±1/√fan-in, as in PyTorch. */
export class Conv2d extends Module {
  /** [out, k, k, in] */
  readonly weight: Parameter;
  /** [out] */
  readonly bias: Parameter | null;
  readonly #options: Conv2dOptions;

  constructor(inputs: number, outputs: number, options: Conv2dLayerOptions = {}) {
    super();
    const { kernelSize = 3, bias = true, initial = sharedInitialValues(), ...rest } = options;
    const limit = 1 / Math.sqrt(inputs * kernelSize * kernelSize);
    const shape = [outputs, kernelSize, kernelSize, inputs];
    this.weight = new Parameter(shape, { data: initial.uniform(shape, limit) });
    this.bias = bias ? new Parameter([outputs], { data: initial.uniform([outputs], limit) }) : null;
    this.#options = rest;
  }

  forward(x: Tensor): Tensor {
    return conv2d(x, this.weight, this.bias, this.#options);
  }
}

/** GroupNorm of channels-last images. */
export class GroupNorm extends Module {
  /** [C] */
  readonly weight: Parameter;
  /** [C] */
  readonly bias: Parameter;
  readonly #options: { groups: number; epsilon: number };

  constructor(channels: number, groups = 32, epsilon = 1e-6) {
    super();
    this.weight = new Parameter([channels], { data: new Float32Array(channels).fill(1) });
    this.bias = new Parameter([channels]);
    this.#options = { groups, epsilon };
  }

  forward(x: Tensor): Tensor {
    return groupNorm(x, this.weight, this.bias, this.#options);
  }
}
