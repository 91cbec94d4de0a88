import { DtypeError, ShapeError } from "../tensor/errors.js";
import { sameShape } from "../tensor/shape.js";
import type { Tensor } from "../tensor/tensor.js";
import { apply, applyAll, defineOp, refuseUpstream } from "./op.js";

const f32 = "f32" as const;
const i32 = "i32" as const;

/**
 * How kept logits become weights: `topk-softmax` is a softmax over the kept ones (Branch-Train-MiX §3.2, Mixtral);
 * `softmax-topk` keeps the full softmax's values, which then sum to less than 1.
 */
export type GateMode = "topk-softmax" | "softmax-topk";
const gateModes: Record<GateMode, number> = { "topk-softmax": 0, "softmax-topk": 1 };

const opGateGrad = defineOp({ name: "moe_gate_grad", kernel: "moe_gate_grad", operands: ["f32", "f32", "i32", "f32"] });
const opGate = defineOp({
  name: "moe_gate",
  kernel: "moe_gate",
  gradient: (request) => {
    refuseUpstream("moeGate", request, [2], "take softmax(logits) where a gradient is needed");
    const { inputs, outputs, attributes, upstream } = request;
    const logits = inputs[0]!;
    const [weights, indices, probabilities] = outputs as [Tensor, Tensor, Tensor];
    const type = { shape: logits.shape, dtype: f32 };
    return [apply(opGateGrad, [upstream[0]!, weights, indices, probabilities], type, attributes)];
  },
});

export interface Gate {
  /** [T, K], in descending order of the logits. */
  weights: Tensor;
  /** i32 [T, K]: the experts chosen; ties go to the lower index. */
  indices: Tensor;
}

/** Keeps the `topK` largest of each token's router logits [T, E] and turns them into weights. */
export function moeGate(logits: Tensor, topK: number, mode: GateMode = "topk-softmax"): Gate {
  const [tokens, experts] = logits.shape as [number, number];
  if (logits.rank !== 2) throw new ShapeError("moeGate", "logits must be [tokens, experts]", [logits.shape]);
  if (!(Number.isInteger(topK) && topK >= 1 && topK <= experts)) {
    throw new ShapeError("moeGate", `topK is ${topK}; it must be 1 to ${experts}`, [logits.shape]);
  }
  const kept = [tokens, topK];
  const [weights, indices] = applyAll(
    opGate,
    [logits],
    [
      { shape: kept, dtype: f32 },
      { shape: kept, dtype: i32 },
      { shape: logits.shape, dtype: f32 },
    ],
    [gateModes[mode]],
  );
  return { weights: weights!, indices: indices! };
}

const opSort = defineOp({ name: "moe_sort", kernel: "moe_sort", operands: ["i32"], gradient: "zero" });

/** Slots `s = t K + j`, stably sorted by expert; R = T K rows. */
export interface ExpertOrder {
  /** i32 [R]: the slot of each row. */
  permutation: Tensor;
  /** i32 [R]: the token of each row. */
  token: Tensor;
  /** i32 [E + 1]: where each expert's rows begin. */
  offsets: Tensor;
  /** i32 [R]: the row of each slot. */
  inverse: Tensor;
}

/** A stable counting sort of the slots of `indices` (i32 [T, K]) by expert. */
export function moeSort(indices: Tensor, experts: number): ExpertOrder {
  if (indices.dtype !== i32) throw new DtypeError("moeSort", "indices must be i32", [indices.dtype]);
  const rows = { shape: [indices.size], dtype: i32 };
  const [permutation, token, offsets, inverse] = applyAll(
    opSort,
    [indices],
    [rows, rows, { shape: [experts + 1], dtype: i32 }, rows],
  );
  return { permutation: permutation!, token: token!, offsets: offsets!, inverse: inverse! };
}

const opCombineGrad = defineOp({
  name: "moe_combine_grad",
  kernel: "moe_combine_grad",
  operands: ["f32", "f32", "i32", "f32"],
});
const opCombine = defineOp({
  name: "moe_combine",
  kernel: "moe_combine",
  operands: ["f32", "i32", "f32", "i32"],
  gradient: ({ inputs, upstream }) => {
    const [y, , weights, permutation] = inputs as [Tensor, Tensor, Tensor, Tensor];
    const [dy, dweights] = applyAll(
      opCombineGrad,
      [upstream[0]!, y, permutation, weights],
      [
        { shape: y.shape, dtype: f32 },
        { shape: weights.shape, dtype: f32 },
      ],
    );
    return [dy!, null, dweights!, null];
  },
});

/**
 * `out[t] = Σ_j weights[t, j] y[row of slot (t, j)]`, in order of j: a gather-sum, so it repeats bit for bit.
 * @param y [R, D], rows sorted by expert
 * @param weights [T, K]
 * @returns [T, D]
 */
export function moeCombine(y: Tensor, order: ExpertOrder, weights: Tensor): Tensor {
  const [tokens, topK] = weights.shape as [number, number];
  if (y.rank !== 2 || !sameShape(order.inverse.shape, [tokens * topK]) || y.shape[0] !== tokens * topK) {
    throw new ShapeError("moeCombine", "needs y [T K, D] and weights [T, K]", [
      y.shape,
      weights.shape,
      order.inverse.shape,
    ]);
  }
  const type = { shape: [tokens, y.shape[1]!], dtype: f32 };
  // The kernel reads three inputs; the permutation rides along for the gradient.
  return apply(opCombine, [y, order.inverse, weights, order.permutation], type, [topK]);
}
