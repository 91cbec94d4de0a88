import { ShapeError } from "../tensor/errors.js";
import { lastSize } from "../tensor/shape.js";
import type { Tensor } from "../tensor/tensor.js";
import { apply, defineOp } from "./op.js";

const opSwigluGrad = defineOp({ name: "swiglu_grad", kernel: "swiglu_grad" });
const opSwiglu = defineOp({
  name: "swiglu",
  kernel: "swiglu",
  gradient: ({ inputs, upstream }) => [
    apply(opSwigluGrad, [inputs[0]!, upstream[0]!], { shape: inputs[0]!.shape, dtype: "f32" }),
  ],
});

/** `silu(x[.., :F]) * x[.., F:]` (GLU variants, arXiv 2002.05202): [.., 2F] -> [.., F]. */
export function swiglu(x: Tensor): Tensor {
  const width = lastSize(x.shape);
  if (x.rank === 0 || width % 2 !== 0) throw new ShapeError("swiglu", "the last axis must be even", [x.shape]);
  return apply(opSwiglu, [x], { shape: [...x.shape.slice(0, -1), width / 2], dtype: "f32" });
}
