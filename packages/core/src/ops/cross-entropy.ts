import { DtypeError, ShapeError } from "../tensor/errors.js";
import { sameShape } from "../tensor/shape.js";
import { full, type Tensor } from "../tensor/tensor.js";
import { requireTensor } from "./check-arguments.js";
import { multiply } from "./elementwise.js";
import { applyAll, defineOp, type GradientRequest, refuseUpstream } from "./op.js";

// The forward kernels also give the gradients for an upstream of 1, when somebody reads them; here they are scaled.
const scaled =
  (op: string, gradients: Record<number, number>, weights: number) =>
  (request: GradientRequest): (Tensor | null)[] => {
    refuseUpstream(op, request, [1], "differentiate the loss, or use logSoftmax and gatherLast");
    const dloss = request.upstream[0]!;
    return request.inputs.map((_, input) => {
      if (!request.needs[input]) return null;
      // d loss / d w_t = nll_t
      if (input === weights) return multiply(request.outputs[1]!, dloss);
      const output = gradients[input];
      return output === undefined ? null : multiply(request.outputs[output]!, dloss);
    });
  };

const opCrossEntropy = defineOp({
  name: "cross_entropy",
  kernel: "cross_entropy",
  operands: ["f32", "i32", "f32"],
  gradient: scaled("crossEntropy", { 0: 2 }, 2),
});
const opLinearCrossEntropy = defineOp({
  name: "linear_cross_entropy",
  kernel: "linear_cross_entropy",
  operands: ["float", "float", "i32", "f32"],
  gradient: scaled("linearCrossEntropy", { 0: 2, 1: 3 }, 3),
});

export interface CrossEntropyResult {
  /** Σ w_t nll_t, a scalar. */
  loss: Tensor;
  /** Negative log-likelihood of each target, [T]; 0 where the target is -1. Not differentiable. */
  nll: Tensor;
}

function check(op: string, rows: number, targets: Tensor, weights: Tensor): void {
  requireTensor(op, targets);
  if (!sameShape(targets.shape, [rows]) || !sameShape(weights.shape, [rows])) {
    throw new ShapeError(op, `needs ${rows} targets and weights`, [targets.shape, weights.shape]);
  }
  if (targets.dtype !== "i32") throw new DtypeError(op, "targets must be i32", [targets.dtype]);
}

/**
 * Softmax cross-entropy.
 * @param logits [T, V]
 * @param targets i32 [T], -1: ignored
 * @param weights [T], what each token counts; default 1 / T, the mean
 */
export function crossEntropy(logits: Tensor, targets: Tensor, weights?: Tensor): CrossEntropyResult {
  if (logits.rank !== 2) throw new ShapeError("crossEntropy", "logits must be [T, V]", [logits.shape]);
  const rows = logits.shape[0]!;
  const w = weights ?? full([rows], 1 / rows);
  check("crossEntropy", rows, targets, w);
  const f32 = "f32" as const;
  const [loss, nll] = applyAll(
    opCrossEntropy,
    [logits, targets, w],
    [
      { shape: [], dtype: f32 },
      { shape: [rows], dtype: f32 },
      { shape: logits.shape, dtype: f32 },
    ],
  );
  return { loss: loss!, nll: nll! };
}

/**
 * Cross-entropy of `x weightᵀ` without ever holding the `[T, V]` logits.
 * @param x [T, D]
 * @param weight [V, D]
 * @param targets i32 [T], -1: ignored
 * @param weights [T], what each token counts; default 1 / T, the mean
 */
export function linearCrossEntropy(x: Tensor, weight: Tensor, targets: Tensor, weights?: Tensor): CrossEntropyResult {
  if (x.rank !== 2 || weight.rank !== 2 || x.shape[1] !== weight.shape[1]) {
    throw new ShapeError("linearCrossEntropy", "needs x [T, D] and weight [V, D]", [x.shape, weight.shape]);
  }
  const rows = x.shape[0]!;
  const w = weights ?? full([rows], 1 / rows);
  check("linearCrossEntropy", rows, targets, w);
  const f32 = "f32" as const;
  const [loss, nll] = applyAll(
    opLinearCrossEntropy,
    [x, weight, targets, w],
    [
      { shape: [], dtype: f32 },
      { shape: [rows], dtype: f32 },
      { shape: x.shape, dtype: f32 },
      { shape: weight.shape, dtype: f32 },
    ],
  );
  return { loss: loss!, nll: nll! };
}
