import { ShapeError } from "../tensor/errors.js";
import { elementCount, lastSize, resolveAxis, type Shape } from "../tensor/shape.js";
import type { Tensor } from "../tensor/tensor.js";
import { requireOptions, requireTensor } from "./check-arguments.js";
import { broadcastTo, cast, divide, equal, multiply } from "./elementwise.js";
import { type AxisOptions, axisOf, axisToLast, reshape } from "./movement.js";
import { apply, defineOp, type GradientRequest } from "./op.js";

export interface ReduceOptions {
  /** Axes to reduce, negative ones counted from the end. Default: all. */
  axes?: number | readonly number[];
  /** Keep reduced axes as size 1. */
  keepDims?: boolean;
}

const kinds = { sum: 0, max: 1, min: 2, mean: 3 } as const;
type Kind = keyof typeof kinds;

// y is [outer, inner].
const stretched = (y: Tensor, outer: number, n: number, inner: number): Tensor =>
  broadcastTo(reshape(y, [outer, 1, inner]), [outer, n, inner]);

function gradient({ inputs, outputs, attributes, upstream }: GradientRequest): Tensor[] {
  const [kind, outer, n, inner] = attributes as [number, number, number, number];
  const x = inputs[0]!;
  const dy = stretched(upstream[0]!, outer, n, inner);
  if (kind === kinds.sum) return [reshape(dy, x.shape)];
  if (kind === kinds.mean) return [reshape(multiply(dy, 1 / n), x.shape)];
  // max and min: ties share the gradient evenly, as in PyTorch's amax.
  const hits = equal(reshape(x, [outer, n, inner]), stretched(outputs[0]!, outer, n, inner));
  const share = divide(hits, sum(hits, { axes: 1, keepDims: true }));
  return [reshape(multiply(dy, share), x.shape)];
}

const opReduce = defineOp({ name: "reduce", kernel: "reduce", gradient });

/** One run of neighbouring axes [first, last] at a time: the kernel's [outer, n, inner] form. */
function reduceRun(x: Tensor, kind: Kind, first: number, last: number): Tensor {
  const outer = elementCount(x.shape.slice(0, first));
  const n = elementCount(x.shape.slice(first, last + 1));
  const inner = elementCount(x.shape.slice(last + 1));
  if (n === 0 && kind !== "sum") throw new ShapeError(kind, "cannot reduce an axis of size 0", [x.shape]);
  const shape = [
    ...x.shape.slice(0, first),
    ...new Array<number>(last - first + 1).fill(1),
    ...x.shape.slice(last + 1),
  ];
  return apply(opReduce, [x], { shape, dtype: "f32" }, [kinds[kind], outer, n, inner]);
}

function reduce(x: Tensor, kind: Kind, options: ReduceOptions): Tensor {
  requireTensor(kind, x);
  requireOptions(kind, options, ["axes", "keepDims"], `${kind}({ axes: -1 })`);
  const listed = options.axes === undefined ? x.shape.map((_, axis) => axis) : [options.axes].flat();
  const axes = [...new Set(listed.map((axis) => resolveAxis(kind, axis, x.shape)))].sort((a, b) => a - b);
  let result = cast(x, "f32");
  for (let end = axes.length - 1; end >= 0; ) {
    let start = end;
    while (start > 0 && axes[start - 1] === axes[start]! - 1) start--;
    result = reduceRun(result, kind, axes[start]!, axes[end]!);
    end = start - 1;
  }
  const shape: Shape = options.keepDims ? result.shape : result.shape.filter((_, axis) => !axes.includes(axis));
  return reshape(result, shape);
}

/** Sum over `axes` (default: all). */
export const sum = (x: Tensor, options: ReduceOptions = {}): Tensor => reduce(x, "sum", options);
/** Mean over `axes` (default: all). */
export const mean = (x: Tensor, options: ReduceOptions = {}): Tensor => reduce(x, "mean", options);
/** Largest value over `axes` (default: all). */
export const max = (x: Tensor, options: ReduceOptions = {}): Tensor => reduce(x, "max", options);
/** Smallest value over `axes` (default: all). */
export const min = (x: Tensor, options: ReduceOptions = {}): Tensor => reduce(x, "min", options);

const opArgmax = defineOp({ name: "argmax", kernel: "argmax", gradient: "zero" });

/** Index of the first largest value along an axis, by default the last: `[..., n] -> i32 [...]`. */
export function argmax(x: Tensor, options: AxisOptions = {}): Tensor {
  const moved = axisToLast("argmax", x, axisOf("argmax", options));
  if (moved.rank === 0 || lastSize(moved.shape) === 0)
    throw new ShapeError("argmax", "needs an axis with elements", [x.shape]);
  return apply(opArgmax, [moved], { shape: moved.shape.slice(0, -1), dtype: "i32" });
}

const opSumSquares = defineOp({
  name: "sum_squares",
  kernel: "sum_squares",
  gradient: ({ inputs, upstream }) => inputs.map((x) => multiply(multiply(x!, 2), upstream[0]!)),
});

/** Σ x² over every element of every tensor, accumulated in f64: a scalar. */
export function sumSquares(tensors: readonly Tensor[]): Tensor {
  return apply(opSumSquares, tensors, { shape: [], dtype: "f32" });
}
