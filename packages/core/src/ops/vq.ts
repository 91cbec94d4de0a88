import { ShapeError } from "../tensor/errors.js";
import type { Tensor } from "../tensor/tensor.js";
import { add, subtract } from "./elementwise.js";
import { gatherRows } from "./indexing.js";
import { applyAll, defineOp } from "./op.js";
import { stopGradient } from "./stop-gradient.js";

const opVqLookup = defineOp({ name: "vq_lookup", kernel: "vq_lookup", gradient: "zero" });

/**
 * The nearest code of every row by squared distance; the lower index where two are equally near. Neither output has a gradient:
 * recompute the distance from `gatherRows` where a loss needs one.
 * @param x [R, D]
 * @param codebook [V, D]
 * @returns index i32 [R], distance [R] (squared)
 */
export function vqLookup(x: Tensor, codebook: Tensor): { index: Tensor; distance: Tensor } {
  if (x.rank !== 2 || codebook.rank !== 2 || x.shape[1] !== codebook.shape[1]) {
    throw new ShapeError("vqLookup", "x must be [R, D] and the codebook [V, D]", [x.shape, codebook.shape]);
  }
  if (codebook.shape[0] === 0) throw new ShapeError("vqLookup", "the codebook is empty", [codebook.shape]);
  const rows = [x.shape[0]!];
  const [index, distance] = applyAll(
    opVqLookup,
    [x, codebook],
    [
      { shape: rows, dtype: "i32" },
      { shape: rows, dtype: "f32" },
    ],
  );
  return { index: index!, distance: distance! };
}

/** A quantised batch of vectors. */
export interface Quantised {
  /** i32 [R] */
  index: Tensor;
  /** The nearest codes, [R, D]; its gradient goes to the codebook. */
  codes: Tensor;
  /** The same values as `codes` up to rounding, [R, D]; its gradient goes to x as it is (straight-through, arXiv 1308.3432). */
  quantised: Tensor;
}

/** Nearest codes of x [R, D] in a codebook [V, D], both ways that training needs them (VQ-VAE, arXiv 1711.00937, section 3.2). */
export function vectorQuantise(x: Tensor, codebook: Tensor): Quantised {
  const { index } = vqLookup(x, codebook);
  const codes = gatherRows(codebook, index);
  return { index, codes, quantised: add(x, stopGradient(subtract(codes, x))) };
}
