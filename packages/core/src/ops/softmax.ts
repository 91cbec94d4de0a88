import { lastSize, resolveAxis } from "../tensor/shape.js";
import type { Tensor } from "../tensor/tensor.js";
import { broadcastTo, exp, multiply, subtract } from "./elementwise.js";
import { type AxisOptions, axisOf, axisToLast, reshape, transpose } from "./movement.js";
import { apply, defineOp, type Op } from "./op.js";

const typeOf = (x: Tensor) => ({ shape: x.shape, dtype: "f32" as const });

const opSoftmaxGrad = defineOp({ name: "softmax_grad", kernel: "softmax_grad" });
const opSoftmax = defineOp({
  name: "softmax",
  kernel: "softmax",
  gradient: ({ outputs, upstream }) => [apply(opSoftmaxGrad, [outputs[0]!, upstream[0]!], typeOf(outputs[0]!))],
});

/** `op`, which works along the last axis, along another one: that one changes places with the last, before and after. */
function along(name: string, op: Op, x: Tensor, options: AxisOptions): Tensor {
  const axis = axisOf(name, options);
  if (axis === -1) return apply(op, [x], typeOf(x));
  const at = resolveAxis(name, axis, x.shape);
  const order = x.shape.map((_, i) => (i === at ? x.rank - 1 : i === x.rank - 1 ? at : i));
  const moved = transpose(x, order);
  return transpose(apply(op, [moved], typeOf(moved)), order);
}

/** Softmax along an axis, by default the last. */
export const softmax = (x: Tensor, options: AxisOptions = {}): Tensor => along("softmax", opSoftmax, x, options);

const opLogSoftmaxGrad = defineOp({ name: "log_softmax_grad", kernel: "log_softmax_grad" });
const opLogSoftmax = defineOp({
  name: "log_softmax",
  kernel: "log_softmax",
  gradient: ({ outputs, upstream }) => [apply(opLogSoftmaxGrad, [outputs[0]!, upstream[0]!], typeOf(outputs[0]!))],
});

/** log(softmax(x)) along an axis, by default the last; stable. */
export const logSoftmax = (x: Tensor, options: AxisOptions = {}): Tensor =>
  along("logSoftmax", opLogSoftmax, x, options);

const opLogsumexp = defineOp({
  name: "logsumexp",
  kernel: "logsumexp",
  gradient: ({ inputs, outputs, upstream }) => {
    const x = inputs[0]!;
    const wide = (row: Tensor) => broadcastTo(reshape(row, [...row.shape, 1]), [...row.shape, lastSize(x.shape)]);
    return [multiply(exp(subtract(x, wide(outputs[0]!))), wide(upstream[0]!))];
  },
});

/** log Σ e^x along an axis, by default the last: `[.., n] -> [..]`. */
export function logsumexp(x: Tensor, options: AxisOptions = {}): Tensor {
  const moved = axisToLast("logsumexp", x, axisOf("logsumexp", options));
  return apply(opLogsumexp, [moved], { shape: moved.shape.slice(0, -1), dtype: "f32" });
}
