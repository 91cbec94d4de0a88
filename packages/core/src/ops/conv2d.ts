import { ShapeError } from "../tensor/errors.js";
import { type Shape, sameShape } from "../tensor/shape.js";
import type { Tensor } from "../tensor/tensor.js";
import { apply, defineOp } from "./op.js";
import { sum } from "./reduce.js";

export interface Conv2dOptions {
  /** Pixels from one window to the next. Default 1. */
  stride?: number;
  /** Zeros around the image: on every side, or `[top and left, bottom and right]`. Default 0. */
  padding?: number | readonly [number, number];
}

// Attributes of the three kernels: stride, padding at the top and left. The rest follows from the shapes.
type Attributes = readonly number[];

const opConv2d = defineOp({
  name: "conv2d",
  kernel: "conv2d",
  gradient: ({ inputs, attributes, upstream, needs }) => {
    const [x, w, bias] = inputs as [Tensor, Tensor, Tensor | null];
    const dy = upstream[0]!;
    return [
      needs[0] ? inputGrad(dy, w, x.shape, attributes) : null,
      needs[1] ? weightGrad(dy, x, w.shape, attributes) : null,
      bias && needs[2] ? sum(dy, { axes: [0, 1, 2] }) : null,
    ];
  },
});

// Each is linear in both of its inputs, and its derivatives are the other two: gradients of gradients come for free.
const opInputGrad = defineOp({
  name: "conv2d_input_grad",
  kernel: "conv2d_input_grad",
  gradient: ({ inputs, attributes, upstream, needs }) => {
    const [dy, w] = inputs as [Tensor, Tensor];
    return [
      needs[0] ? forward(upstream[0]!, w, null, dy.shape, attributes) : null,
      needs[1] ? weightGrad(dy, upstream[0]!, w.shape, attributes) : null,
    ];
  },
});
const opWeightGrad = defineOp({
  name: "conv2d_weight_grad",
  kernel: "conv2d_weight_grad",
  gradient: ({ inputs, attributes, upstream, needs }) => {
    const [dy, x] = inputs as [Tensor, Tensor];
    return [
      needs[0] ? forward(x, upstream[0]!, null, dy.shape, attributes) : null,
      needs[1] ? inputGrad(dy, upstream[0]!, x.shape, attributes) : null,
    ];
  },
});

const forward = (x: Tensor, w: Tensor, bias: Tensor | null, shape: Shape, attributes: Attributes): Tensor =>
  apply(opConv2d, [x, w, bias], { shape, dtype: "f32" }, attributes);
const inputGrad = (dy: Tensor, w: Tensor, shape: Shape, attributes: Attributes): Tensor =>
  apply(opInputGrad, [dy, w], { shape, dtype: "f32" }, attributes);
const weightGrad = (dy: Tensor, x: Tensor, shape: Shape, attributes: Attributes): Tensor =>
  apply(opWeightGrad, [dy, x], { shape, dtype: "f32" }, attributes);

function readOptions(options: Conv2dOptions, shapes: readonly Shape[]): [number, number, number] {
  const { stride = 1, padding = 0 } = options;
  const [before, after] = typeof padding === "number" ? [padding, padding] : padding;
  const whole = [stride, before, after].every(Number.isSafeInteger);
  if (!whole || stride < 1 || before < 0 || after < 0) {
    throw new ShapeError("conv2d", `needs whole stride >= 1 and padding >= 0; got ${stride}, ${padding}`, shapes);
  }
  return [stride, before, after];
}

function checkOperands(x: Tensor, w: Tensor, bias: Tensor | null): void {
  if (x.rank !== 4 || w.rank !== 4) {
    throw new ShapeError("conv2d", "the image must be [N, H, W, C] and the weight [O, kh, kw, C]", [x.shape, w.shape]);
  }
  if (x.shape[3] !== w.shape[3]) throw new ShapeError("conv2d", "channels differ", [x.shape, w.shape]);
  if (bias && !sameShape(bias.shape, [w.shape[0]!])) {
    throw new ShapeError("conv2d", "the bias needs one value per output channel", [w.shape, bias.shape]);
  }
}

/**
 * 2-D convolution (cross-correlation, as everywhere in deep learning) of channels-last images:
 * `y[n, u, v, o] = bias[o] + Σ_ijc x[n, u stride - padding + i, v stride - padding + j, c] w[o, i, j, c]`.
 * @param x [N, H, W, C]
 * @param w [O, kh, kw, C]
 * @param bias [O]
 * @returns [N, floor((H + padding - kh) / stride) + 1, floor((W + padding - kw) / stride) + 1, O], padding of both sides
 */
export function conv2d(x: Tensor, w: Tensor, bias: Tensor | null = null, options: Conv2dOptions = {}): Tensor {
  const [stride, before, after] = readOptions(options, [x.shape, w.shape]);
  checkOperands(x, w, bias);
  const size = (axis: number): number => Math.floor((x.shape[axis]! + before + after - w.shape[axis]!) / stride) + 1;
  const shape = [x.shape[0]!, size(1), size(2), w.shape[0]!];
  if (shape[1]! < 1 || shape[2]! < 1) {
    throw new ShapeError("conv2d", `the kernel does not fit into the image padded by ${before + after}`, [
      x.shape,
      w.shape,
    ]);
  }
  return forward(x, w, bias, shape, [stride, before]);
}
