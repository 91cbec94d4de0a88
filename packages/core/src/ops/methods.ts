import type { Dtype } from "../tensor/dtype.js";
import type { Shape } from "../tensor/shape.js";
import { Tensor } from "../tensor/tensor.js";
import * as elementwise from "./elementwise.js";
import { type MatmulOptions, matmul } from "./matmul.js";
import { type AxisOptions, reshape, slice, transpose } from "./movement.js";
import { argmax, max, mean, min, type ReduceOptions, sum } from "./reduce.js";
import { logSoftmax, softmax } from "./softmax.js";

type TensorLike = elementwise.TensorLike;

// The ops that read better as methods: `x.matmul(w).add(b).relu()`.
declare module "../tensor/tensor.js" {
  interface Tensor {
    add(other: TensorLike): Tensor;
    sub(other: TensorLike): Tensor;
    mul(other: TensorLike): Tensor;
    div(other: TensorLike): Tensor;
    pow(exponent: TensorLike): Tensor;
    neg(): Tensor;
    exp(): Tensor;
    log(): Tensor;
    sqrt(): Tensor;
    square(): Tensor;
    tanh(): Tensor;
    sigmoid(): Tensor;
    relu(): Tensor;
    gelu(): Tensor;
    silu(): Tensor;
    matmul(other: Tensor, options?: MatmulOptions): Tensor;
    sum(options?: ReduceOptions): Tensor;
    mean(options?: ReduceOptions): Tensor;
    max(options?: ReduceOptions): Tensor;
    min(options?: ReduceOptions): Tensor;
    argmax(options?: AxisOptions): Tensor;
    softmax(options?: AxisOptions): Tensor;
    logSoftmax(options?: AxisOptions): Tensor;
    reshape(shape: Shape): Tensor;
    transpose(permutation?: readonly number[]): Tensor;
    slice(axis: number, start: number, end?: number): Tensor;
    cast(dtype: Dtype): Tensor;
  }
}

type FirstIsTensor = (x: Tensor, ...rest: never[]) => Tensor;

const methods: Record<string, FirstIsTensor> = {
  add: elementwise.add,
  sub: elementwise.subtract,
  mul: elementwise.multiply,
  div: elementwise.divide,
  pow: elementwise.power,
  neg: elementwise.negate,
  exp: elementwise.exp,
  log: elementwise.log,
  sqrt: elementwise.sqrt,
  square: elementwise.square,
  tanh: elementwise.tanh,
  sigmoid: elementwise.sigmoid,
  relu: elementwise.relu,
  gelu: elementwise.gelu,
  silu: elementwise.silu,
  matmul,
  sum,
  mean,
  max,
  min,
  argmax,
  softmax,
  logSoftmax,
  reshape,
  transpose,
  slice,
  cast: elementwise.cast,
};

for (const [name, op] of Object.entries(methods)) {
  Object.defineProperty(Tensor.prototype, name, {
    value(this: Tensor, ...rest: never[]) {
      return op(this, ...rest);
    },
  });
}
