import { add, divide, minimum, multiply, sqrt } from "../ops/elementwise.js";
import { sumSquares } from "../ops/reduce.js";
import { InvalidUseError } from "../tensor/errors.js";
import { full, type Tensor } from "../tensor/tensor.js";

/**
 * Global L2 norm of gradients, and what to multiply them by so that it is at most `maxNorm`. Where the norm is not finite, neither is
 * the factor.
 */
export function clipScale(gradients: readonly Tensor[], maxNorm: number): { norm: Tensor; scale: Tensor } {
  const norm = sqrt(sumSquares(gradients));
  // 1e-6 as in PyTorch's clip_grad_norm_.
  const limit = full([], maxNorm === Number.POSITIVE_INFINITY ? 1e30 : maxNorm);
  const scale = minimum(divide(limit, add(norm, 1e-6)), 1);
  return { norm, scale: add(scale, norm.sub(norm)) };
}

/**
 * Gradients scaled down together to a global L2 norm of at most `maxNorm`: for optimisers of one's own, or several that share a norm.
 * AdamW clips by itself. Where the norm is not finite, no gradient is: AdamW then changes nothing.
 * @returns gradients in the same order, and their norm before
 */
export function clipGradients(
  gradients: readonly Tensor[],
  maxNorm: number,
): { gradients: Tensor[]; gradientNorm: Tensor } {
  if (!(maxNorm > 0)) throw new InvalidUseError(`clipGradients: maxNorm is ${maxNorm}; it must be above 0`);
  const { norm, scale } = clipScale(gradients, maxNorm);
  return { gradients: gradients.map((gradient) => multiply(gradient, scale)), gradientNorm: norm };
}
