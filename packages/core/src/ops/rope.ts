import { DtypeError, ShapeError } from "../tensor/errors.js";
import { sameShape } from "../tensor/shape.js";
import type { Tensor } from "../tensor/tensor.js";
import { apply, applyAll, defineOp } from "./op.js";

const opRope = defineOp({
  name: "rope",
  kernel: "rope",
  operands: ["f32", "f32", "f32", "i32"],
  gradient: ({ inputs, attributes, upstream }) => {
    const [x, cosine, sine, positions] = inputs as [Tensor, Tensor, Tensor, Tensor];
    const [inverse, interleaved] = attributes as [number, number];
    // A rotation: its transpose is the rotation back.
    const dx = apply(opRope, [upstream[0]!, cosine, sine, positions], { shape: x.shape, dtype: "f32" }, [
      1 - inverse,
      interleaved,
    ]);
    return [dx, null, null, null];
  },
});

/**
 * Rotary position embedding (RoFormer, arXiv 2104.09864).
 * @param x [batch, sequence, heads, headDim]
 * @param cosine [positions, headDim / 2]
 * @param sine [positions, headDim / 2]
 * @param positions i32 [batch, sequence]; outside the table fails when the program runs
 * @param options.interleaved pairs (2i, 2i+1) as in Meta's files; default pairs (i, i + headDim/2) as in Hugging Face's
 */
export function rope(
  x: Tensor,
  cosine: Tensor,
  sine: Tensor,
  positions: Tensor,
  options: { interleaved?: boolean } = {},
): Tensor {
  const shapes = [x.shape, cosine.shape, sine.shape, positions.shape];
  if (x.rank !== 4 || x.shape[3]! % 2 !== 0)
    throw new ShapeError("rope", "x must be [batch, sequence, heads, even headDim]", shapes);
  const table = [cosine.shape[0]!, x.shape[3]! / 2];
  if (!sameShape(cosine.shape, table) || !sameShape(sine.shape, table)) {
    throw new ShapeError("rope", "cosine and sine must be [positions, headDim / 2]", shapes);
  }
  if (!sameShape(positions.shape, x.shape.slice(0, 2)))
    throw new ShapeError("rope", "positions must be [batch, sequence]", shapes);
  if (positions.dtype !== "i32") throw new DtypeError("rope", "positions must be i32", [positions.dtype]);
  return apply(opRope, [x, cosine, sine, positions], { shape: x.shape, dtype: "f32" }, [
    0,
    options.interleaved ? 1 : 0,
  ]);
}

const opRopeToCache = defineOp({
  name: "rope_to_cache_",
  kernel: "rope_to_cache_",
  operands: ["f32", "f32", "f32", "i32", "float", "float", "i32"],
  inPlace: () => [
    [1, 4],
    [2, 5],
  ],
});

/**
 * What decoding does with its projections, in one pass: `rope` of queries and keys, and `updateRows` of keys and values.
 * @param projected [batch, steps, (heads + 2 keyValueHeads) * headDim]: queries, keys and values of each token, one after another
 * @param keys [batch, capacity, keyValueHeads, headDim], as `values`; parameters that their results are assigned to are written in place
 * @param start i32 [batch]: where the first row of each sequence goes
 * @returns query [batch, steps, heads, headDim], and the caches
 */
export function ropeToCache(
  projected: Tensor,
  table: { cosine: Tensor; sine: Tensor },
  positions: Tensor,
  { keys, values, start }: { keys: Tensor; values: Tensor; start: Tensor },
): { query: Tensor; keys: Tensor; values: Tensor } {
  const { cosine, sine } = table;
  const shapes = [projected.shape, cosine.shape, positions.shape, keys.shape, values.shape, start.shape];
  const [batch, steps, width] = projected.shape as [number, number, number];
  const [rows, capacity, groups, headDim] = keys.shape as [number, number, number, number];
  const heads = width / headDim - 2 * groups;
  const fits =
    projected.rank === 3 &&
    keys.rank === 4 &&
    headDim % 2 === 0 &&
    Number.isInteger(heads) &&
    heads > 0 &&
    rows === batch &&
    steps <= capacity &&
    sameShape(keys.shape, values.shape) &&
    sameShape(cosine.shape, [cosine.shape[0]!, headDim / 2]) &&
    sameShape(sine.shape, cosine.shape) &&
    sameShape(positions.shape, [batch, steps]) &&
    sameShape(start.shape, [batch]);
  if (!fits) throw new ShapeError("ropeToCache", "rows, table, positions and caches do not fit each other", shapes);
  if (keys.dtype !== values.dtype)
    throw new DtypeError("ropeToCache", "the caches must have one dtype", [keys.dtype, values.dtype]);
  const [query, ...caches] = applyAll(
    opRopeToCache,
    [projected, cosine, sine, positions, keys, values, start],
    [
      { shape: [batch, steps, heads, headDim], dtype: "f32" },
      { shape: keys.shape, dtype: keys.dtype },
      { shape: values.shape, dtype: values.dtype },
    ],
  ) as [Tensor, Tensor, Tensor];
  return { query, keys: caches[0]!, values: caches[1]! };
}
