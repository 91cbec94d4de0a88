import { ShapeError } from "../tensor/errors.js";
import type { Tensor } from "../tensor/tensor.js";
import { apply, defineOp } from "./op.js";

// Attribute of both: a factor. Each is the other's transpose.
const opUpsample = defineOp({
  name: "upsample_nearest2",
  kernel: "upsample_nearest2",
  gradient: ({ attributes, upstream }) => [pool(upstream[0]!, attributes[0]!)],
});
const opPool = defineOp({
  name: "sum_pool2",
  kernel: "sum_pool2",
  gradient: ({ attributes, upstream }) => [upsample(upstream[0]!, attributes[0]!)],
});

function upsample(x: Tensor, factor: number): Tensor {
  const [n, height, width, channels] = x.shape as [number, number, number, number];
  return apply(opUpsample, [x], { shape: [n, 2 * height, 2 * width, channels], dtype: "f32" }, [factor]);
}

function pool(x: Tensor, factor: number): Tensor {
  const [n, height, width, channels] = x.shape as [number, number, number, number];
  return apply(opPool, [x], { shape: [n, height / 2, width / 2, channels], dtype: "f32" }, [factor]);
}

/** Every pixel four times, in a square: [N, H, W, C] to [N, 2H, 2W, C]. */
export function upsampleNearest2(x: Tensor): Tensor {
  if (x.rank !== 4) throw new ShapeError("upsampleNearest2", "the image must be [N, H, W, C]", [x.shape]);
  return upsample(x, 1);
}

/** Means of squares of four pixels: [N, H, W, C] to [N, H/2, W/2, C]; H and W are even. */
export function averagePool2(x: Tensor): Tensor {
  if (x.rank !== 4 || x.shape[1]! % 2 !== 0 || x.shape[2]! % 2 !== 0) {
    throw new ShapeError("averagePool2", "the image must be [N, H, W, C] with even height and width", [x.shape]);
  }
  return pool(x, 0.25);
}
