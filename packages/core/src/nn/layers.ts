import { gatherRows } from "../ops/indexing.js";
import { linear } from "../ops/matmul.js";
import { layerNorm, rmsNorm } from "../ops/norm.js";
import { allocateHost } from "../tensor/dtype.js";
import { ShapeError } from "../tensor/errors.js";
import { sameShape } from "../tensor/shape.js";
import { Parameter, type Tensor } from "../tensor/tensor.js";
import { Module } from "./module.js";
import { type InitialValues, sharedInitialValues } from "./random-init.js";

export interface LinearOptions {
  /** Whether there is one, or the parameter to use, [out]. Default true. */
  bias?: boolean | Parameter;
  /** The parameter to use, [out, in]: another layer's, as where an output projection is tied to the embedding. */
  weight?: Parameter;
  /** Standard deviation of the initial weight; default uniform on ±1/√in, as in PyTorch. */
  standardDeviation?: number;
  initial?: InitialValues;
}

/** `x weightᵀ + bias`: [.., in] -> [.., out]. */
export class Linear extends Module {
  /** [out, in] */
  readonly weight: Parameter;
  /** [out] */
  readonly bias: Parameter | null;

  /** @throws ShapeError when a given parameter has another shape */
  constructor(inputs: number, outputs: number, options: LinearOptions = {}) {
    super();
    const { bias = true, weight, standardDeviation, initial = sharedInitialValues() } = options;
    const limit = 1 / Math.sqrt(inputs);
    const shape = [outputs, inputs];
    const draw = () =>
      standardDeviation === undefined ? initial.uniform(shape, limit) : initial.normal(shape, standardDeviation);
    const drawBias = () => new Parameter([outputs], { data: initial.uniform([outputs], limit) });
    this.weight = weight ?? new Parameter(shape, { data: draw() });
    this.bias = bias === true ? drawBias() : bias || null;
    if (!sameShape(this.weight.shape, shape) || (this.bias && !sameShape(this.bias.shape, [outputs]))) {
      const given = [this.weight.shape, ...(this.bias ? [this.bias.shape] : [])];
      throw new ShapeError("Linear", `the given parameters do not fit ${inputs} inputs and ${outputs} outputs`, given);
    }
  }

  forward(x: Tensor): Tensor {
    return this.bias ? linear(x, this.weight, this.bias) : linear(x, this.weight);
  }
}

/** A table of rows looked up by index: i32 [..] -> [.., D]. */
export class Embedding extends Module {
  /** [V, D] */
  readonly weight: Parameter;

  constructor(rows: number, width: number, options: { standardDeviation?: number; initial?: InitialValues } = {}) {
    super();
    const { standardDeviation = 1, initial = sharedInitialValues() } = options;
    this.weight = new Parameter([rows, width], { data: initial.normal([rows, width], standardDeviation) });
  }

  forward(index: Tensor): Tensor {
    return gatherRows(this.weight, index);
  }
}

const onesArray = (size: number): Float32Array => allocateHost("f32", size).fill(1);

/** RMSNorm over the last axis. */
export class RMSNorm extends Module {
  /** [D] */
  readonly weight: Parameter;
  readonly epsilon: number;

  constructor(width: number, epsilon = 1e-6) {
    super();
    this.weight = new Parameter([width], { data: onesArray(width) });
    this.epsilon = epsilon;
  }

  forward(x: Tensor): Tensor {
    return rmsNorm(x, this.weight, this.epsilon);
  }
}

/** LayerNorm over the last axis. */
export class LayerNorm extends Module {
  /** [D] */
  readonly weight: Parameter;
  /** [D] */
  readonly bias: Parameter;
  readonly epsilon: number;

  constructor(width: number, epsilon = 1e-5) {
    super();
    this.weight = new Parameter([width], { data: onesArray(width) });
    this.bias = new Parameter([width]);
    this.epsilon = epsilon;
  }

  forward(x: Tensor): Tensor {
    return layerNorm(x, this.weight, this.bias, this.epsilon);
  }
}

type Layer = { forward(x: Tensor): Tensor } | ((x: Tensor) => Tensor);

/** Layers and plain functions applied one after the other. */
export class Sequential extends Module {
  readonly layers: Layer[];

  constructor(...layers: Layer[]) {
    super();
    this.layers = layers;
  }

  forward(x: Tensor): Tensor {
    return this.layers.reduce((value, layer) => (typeof layer === "function" ? layer(value) : layer.forward(value)), x);
  }
}
