import { DtypeError, ShapeError } from "../tensor/errors.js";
import { sameShape } from "../tensor/shape.js";
import type { Tensor } from "../tensor/tensor.js";
import { scatterAddRows } from "./indexing.js";
import { apply, defineOp } from "./op.js";

const opGroupedMatmul = defineOp({
  name: "grouped_matmul",
  kernel: "grouped_matmul",
  operands: ["float", "float", "i32"],
  gradient: ({ inputs, attributes, upstream, needs }) => {
    const [x, w, offsets, rowIndex] = inputs as [Tensor, Tensor, Tensor, Tensor | null];
    const dy = upstream[0]!;
    const transposed = attributes[0] === 1;
    const dxRows = () => groupedMatmul(dy, w, offsets, { transposeW: !transposed });
    const dx = () => (rowIndex ? scatterAddRows(dxRows(), rowIndex, x.shape[0]!) : dxRows());
    const dw = () =>
      transposed
        ? groupedMatmulWeightGrad(dy, x, offsets, { bIndex: rowIndex })
        : groupedMatmulWeightGrad(x, dy, offsets, { aIndex: rowIndex });
    return [needs[0] ? dx() : null, needs[1] ? dw() : null, null, null];
  },
});

export interface GroupedMatmulOptions {
  /** true: `y = x w[e]ᵀ` with w [E, N, K]; false: `y = x w[e]` with w [E, K, N]. */
  transposeW?: boolean;
  /** i32 [R]: row r of the product reads `x[rowIndex[r]]`, so that no gathered copy of x is made. */
  rowIndex?: Tensor | null;
}

/**
 * One product per group of rows: rows `[offsets[e], offsets[e+1])` meet `w[e]`. Empty groups are fine.
 * @param x [R, K] (any number of rows with `rowIndex`)
 * @param w [E, N, K] or [E, K, N]
 * @param offsets i32 [E + 1]
 * @returns [R, N]
 */
export function groupedMatmul(x: Tensor, w: Tensor, offsets: Tensor, options: GroupedMatmulOptions = {}): Tensor {
  const transposeW = options.transposeW ?? true;
  const rowIndex = options.rowIndex ?? null;
  const shapes = [x.shape, w.shape, offsets.shape];
  if (x.rank !== 2 || w.rank !== 3 || !sameShape(offsets.shape, [w.shape[0]! + 1])) {
    throw new ShapeError("groupedMatmul", "needs x [R, K], w [E, N, K] or [E, K, N], offsets [E + 1]", shapes);
  }
  const [n, k] = transposeW ? [w.shape[1]!, w.shape[2]!] : [w.shape[2]!, w.shape[1]!];
  if (x.shape[1] !== k) throw new ShapeError("groupedMatmul", `inner sizes differ, ${x.shape[1]} and ${k}`, shapes);
  if (offsets.dtype !== "i32" || (rowIndex && rowIndex.dtype !== "i32")) {
    throw new DtypeError("groupedMatmul", "offsets and rowIndex must be i32", [
      offsets.dtype,
      rowIndex?.dtype ?? "i32",
    ]);
  }
  const rows = rowIndex ? rowIndex.size : x.shape[0]!;
  return apply(opGroupedMatmul, [x, w, offsets, rowIndex], { shape: [rows, n], dtype: "f32" }, [transposeW ? 1 : 0]);
}

const opWeightGrad = defineOp({
  name: "grouped_matmul_weight_grad",
  kernel: "grouped_matmul_weight_grad",
  operands: ["float", "float", "i32"],
});

/** `w[e] = Σ a[r]ᵀ b[r]` over the rows of group e: a [R, M], b [R, N] to [E, M, N]; with an index, its rows are gathered on load. */
function groupedMatmulWeightGrad(
  a: Tensor,
  b: Tensor,
  offsets: Tensor,
  options: { aIndex?: Tensor | null; bIndex?: Tensor | null } = {},
): Tensor {
  const shape = [offsets.shape[0]! - 1, a.shape[1]!, b.shape[1]!];
  return apply(opWeightGrad, [a, b, offsets, options.aIndex ?? null, options.bIndex ?? null], { shape, dtype: "f32" });
}
