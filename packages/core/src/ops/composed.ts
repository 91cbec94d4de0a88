import { InvalidUseError, ShapeError } from "../tensor/errors.js";
import { lastSize, resolveAxis } from "../tensor/shape.js";
import type { Tensor } from "../tensor/tensor.js";
import { add, equal, erf, multiply } from "./elementwise.js";
import { gatherLast, iota } from "./indexing.js";
import { moeGate } from "./moe.js";
import { type AxisOptions, axisOf, pad, reshape, slice } from "./movement.js";

/** GELU in its exact form, x/2 (1 + erf(x/√2)): PyTorch's default, of BERT and ViT. `gelu` is the tanh form, of GPT-2 and SigLIP. */
export const geluExact = (x: Tensor): Tensor => multiply(multiply(x, 0.5), add(erf(multiply(x, Math.SQRT1_2)), 1));

/** 1 at each index and 0 elsewhere: i32 [..] -> f32 [.., size]. An index outside [0, size) gives a row of zeros. */
export function oneHot(index: Tensor, size: number): Tensor {
  if (index.dtype !== "i32") throw new InvalidUseError(`oneHot: the index must be i32, and is ${index.dtype}`);
  return equal(reshape(index, [...index.shape, 1]), iota(size));
}

/** The sum of what stands up to each position along an axis, by default the last; in log2(n) passes. */
export function cumulativeSum(x: Tensor, options: AxisOptions = {}): Tensor {
  const at = resolveAxis("cumulativeSum", axisOf("cumulativeSum", options), x.shape);
  const size = x.shape[at]!;
  let sums = x;
  for (let shift = 1; shift < size; shift *= 2)
    sums = add(sums, pad(slice(sums, at, 0, size - shift), at, shift, size));
  return sums;
}

/**
 * The k largest values along the last axis, in descending order, and where they stand; ties go to the lower index. Gradients go to the
 * values' places.
 * @param x [.., n]
 * @returns values [.., k], indices i32 [.., k]
 */
export function topK(x: Tensor, k: number): { values: Tensor; indices: Tensor } {
  const size = lastSize(x.shape);
  if (x.rank === 0 || !(Number.isInteger(k) && k >= 1 && k <= size))
    throw new ShapeError("topK", `k is ${k}; it must be 1 to the size of the last axis`, [x.shape]);
  const { indices } = moeGate(reshape(x, [x.size / size, size]), k);
  const standing = reshape(indices, [...x.shape.slice(0, -1), k]);
  return { values: gatherLast(x, standing), indices: standing };
}
