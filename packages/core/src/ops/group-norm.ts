import { ShapeError } from "../tensor/errors.js";
import { lastSize, sameShape } from "../tensor/shape.js";
import type { Tensor } from "../tensor/tensor.js";
import { applyAll, defineOp } from "./op.js";

const f32 = "f32" as const;

const opGroupNormGrad = defineOp({ name: "group_norm_grad", kernel: "group_norm_grad" });
const opGroupNorm = defineOp({
  name: "group_norm",
  kernel: "group_norm",
  gradient: ({ inputs, outputs, attributes, upstream }) => {
    const [x, weight] = inputs as [Tensor, Tensor, Tensor];
    const channels = { shape: weight.shape, dtype: f32 };
    return applyAll(
      opGroupNormGrad,
      [upstream[0]!, x, weight, outputs[1]!, outputs[2]!],
      [{ shape: x.shape, dtype: f32 }, channels, channels],
      [attributes[0]!],
    );
  },
});

export interface GroupNormOptions {
  /** Groups of neighbouring channels; divides C. Default 32. */
  groups?: number;
  /** Added to the variance. Default 1e-6. */
  epsilon?: number;
}

/**
 * `(x - mean) / sqrt(variance + epsilon) weight + bias`, mean and variance over all positions and the channels of one group of one
 * image (GroupNorm, arXiv 1803.08494).
 * @param x [N, .., C], channels last
 * @param weight [C]
 * @param bias [C]
 */
export function groupNorm(x: Tensor, weight: Tensor, bias: Tensor, options: GroupNormOptions = {}): Tensor {
  const { groups = 32, epsilon = 1e-6 } = options;
  const channels = lastSize(x.shape);
  if (x.rank < 2) throw new ShapeError("groupNorm", "x must be [N, .., C]", [x.shape]);
  if (!Number.isSafeInteger(groups) || groups < 1 || channels % groups !== 0) {
    throw new ShapeError("groupNorm", `${groups} groups do not divide ${channels} channels`, [x.shape]);
  }
  for (const each of [weight, bias]) {
    if (!sameShape(each.shape, [channels])) {
      throw new ShapeError("groupNorm", "weight and bias need one value per channel", [x.shape, each.shape]);
    }
  }
  const statistics = { shape: [x.shape[0]!, groups], dtype: f32 };
  return applyAll(
    opGroupNorm,
    [x, weight, bias],
    [{ shape: x.shape, dtype: f32 }, statistics, statistics],
    [groups, epsilon],
  )[0]!;
}
