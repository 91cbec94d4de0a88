import { lastSize } from "../tensor/shape.js";
import type { Tensor } from "../tensor/tensor.js";
import { broadcastTo, exp, multiply, subtract } from "./elementwise.js";
import { reshape } from "./movement.js";
import { apply, defineOp } from "./op.js";

const typeOf = (x: Tensor) => ({ shape: x.shape, dtype: "f32" as const });

const opSoftmaxGrad = defineOp({ name: "softmax_grad", kernel: "softmax_grad" });
const opSoftmax = defineOp({
  name: "softmax",
  kernel: "softmax",
  gradient: ({ outputs, upstream }) => [apply(opSoftmaxGrad, [outputs[0]!, upstream[0]!], typeOf(outputs[0]!))],
});

/** Softmax along the last axis. */
export const softmax = (x: Tensor): Tensor => apply(opSoftmax, [x], typeOf(x));

const opLogSoftmaxGrad = defineOp({ name: "log_softmax_grad", kernel: "log_softmax_grad" });
const opLogSoftmax = defineOp({
  name: "log_softmax",
  kernel: "log_softmax",
  gradient: ({ outputs, upstream }) => [apply(opLogSoftmaxGrad, [outputs[0]!, upstream[0]!], typeOf(outputs[0]!))],
});

/** log(softmax(x)) along the last axis, stable. */
export const logSoftmax = (x: Tensor): Tensor => apply(opLogSoftmax, [x], typeOf(x));

const opLogsumexp = defineOp({
  name: "logsumexp",
  kernel: "logsumexp",
  gradient: ({ inputs, outputs, upstream }) => {
    const x = inputs[0]!;
    const wide = (row: Tensor) => broadcastTo(reshape(row, [...row.shape, 1]), [...row.shape, lastSize(x.shape)]);
    return [multiply(exp(subtract(x, wide(outputs[0]!))), wide(upstream[0]!))];
  },
});

/** log Σ e^x along the last axis: `[.., n] -> [..]`. */
export const logsumexp = (x: Tensor): Tensor => apply(opLogsumexp, [x], { shape: x.shape.slice(0, -1), dtype: "f32" });
