import { DtypeError, ShapeError } from "../tensor/errors.js";
import { sameShape } from "../tensor/shape.js";
import type { Tensor } from "../tensor/tensor.js";
import { requireOptions } from "./check-arguments.js";
import { applyAll, defineOp, refuseUpstream } from "./op.js";

const f32 = "f32" as const;

const opAttentionGrad = defineOp({
  name: "attention_grad",
  kernel: "attention_grad",
  operands: ["f32", "f32", "float", "float", "f32", "f32", "i32"],
});
const opAttention = defineOp({
  name: "attention",
  kernel: "attention",
  operands: ["f32", "float", "float", "i32"],
  gradient: (request) => {
    refuseUpstream("attention", request, [1], "the log-sum-exp is for the backward pass only");
    const { inputs, outputs, attributes, upstream } = request;
    const [q, k, v, keyLengths, segments] = inputs as [Tensor, Tensor, Tensor, Tensor | null, Tensor | null];
    const gradients = applyAll(
      opAttentionGrad,
      [upstream[0]!, q, k, v, outputs[0]!, outputs[1]!, keyLengths, segments],
      [q, k, v].map((each) => ({ shape: each.shape, dtype: f32 })),
      attributes,
    );
    return [...gradients, null, null];
  },
});

export interface AttentionOptions {
  /** Query i sees keys up to `keyLength - queries + i`. Default false. */
  causal?: boolean;
  /** Multiplies the scores. Default 1 / sqrt(headDim). */
  scale?: number;
  /** i32 [batch]: how many keys of each row are real; default all. */
  keyLengths?: Tensor;
  /** i32 [batch, sequence]: a query sees only keys of its own segment (packed documents). */
  segments?: Tensor;
}

/**
 * `softmax(scale q kᵀ + mask) v`, tiled with an online softmax: nothing of size [queries, keys] is stored, and the backward
 * pass recomputes the probabilities (FlashAttention, arXiv 2205.14135).
 * Query head i reads key-value head `floor(i keyValueHeads / heads)` (grouped-query attention). A query that sees no key gives 0.
 * @param q [batch, queries, heads, headDim]
 * @param k [batch, keys, keyValueHeads, headDim]
 * @param v [batch, keys, keyValueHeads, headDim]
 * @returns [batch, queries, heads, headDim]
 */
export function attention(q: Tensor, k: Tensor, v: Tensor, options: AttentionOptions = {}): Tensor {
  requireOptions("attention", options, ["causal", "scale", "keyLengths", "segments"], "{ causal: true }");
  const shapes = [q.shape, k.shape, v.shape];
  const [batch, queries, heads, headDim] = q.shape as [number, number, number, number];
  if (q.rank !== 4 || k.rank !== 4)
    throw new ShapeError("attention", "operands must be [batch, sequence, heads, headDim]", shapes);
  const fits =
    sameShape(k.shape, v.shape) && k.shape[0] === batch && k.shape[3] === headDim && heads % k.shape[2]! === 0;
  if (!fits)
    throw new ShapeError("attention", "q, k and v do not fit: heads must be a multiple of keyValueHeads", shapes);
  const { keyLengths = null, segments = null } = options;
  if (keyLengths && !sameShape(keyLengths.shape, [batch])) {
    throw new ShapeError("attention", "keyLengths must be [batch]", [keyLengths.shape, ...shapes]);
  }
  if (segments && (queries !== k.shape[1] || !sameShape(segments.shape, [batch, queries]))) {
    throw new ShapeError("attention", "segments must be [batch, sequence] with as many queries as keys", [
      segments.shape,
      ...shapes,
    ]);
  }
  for (const index of [keyLengths, segments]) {
    if (index && index.dtype !== "i32")
      throw new DtypeError("attention", "keyLengths and segments must be i32", [index.dtype]);
  }
  const outputs = [
    { shape: q.shape, dtype: f32 },
    { shape: [batch, heads, queries], dtype: f32 },
  ];
  const attributes = [options.causal ? 1 : 0, options.scale ?? 1 / Math.sqrt(headDim)];
  return applyAll(opAttention, [q, k, v, keyLengths, segments], outputs, attributes)[0]!;
}
