import { DtypeError, ShapeError } from "../tensor/errors.js";
import { sameShape } from "../tensor/shape.js";
import type { Tensor } from "../tensor/tensor.js";
import { apply, defineOp } from "./op.js";

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
