import { ShapeError } from "../tensor/errors.js";
import { elementCount, lastSize, sameShape } from "../tensor/shape.js";
import type { Tensor } from "../tensor/tensor.js";
import { applyAll, defineOp } from "./op.js";

const f32 = "f32" as const;

const opRmsNormGrad = defineOp({ name: "rms_norm_grad", kernel: "rms_norm_grad" });
const opRmsNorm = defineOp({
  name: "rms_norm",
  kernel: "rms_norm",
  gradient: ({ inputs, outputs, upstream }) => {
    const [x, weight] = inputs as [Tensor, Tensor];
    return applyAll(
      opRmsNormGrad,
      [upstream[0]!, x, weight, outputs[1]!],
      [
        { shape: x.shape, dtype: f32 },
        { shape: weight.shape, dtype: f32 },
      ],
    );
  },
});

/** `x weight / sqrt(mean(x²) + epsilon)` over the last axis (RMSNorm, arXiv 1910.07467). x [.., D], weight [D]. */
export function rmsNorm(x: Tensor, weight: Tensor, epsilon = 1e-6): Tensor {
  if (!sameShape(weight.shape, [lastSize(x.shape)])) {
    throw new ShapeError("rmsNorm", "the weight must have the size of the last axis", [x.shape, weight.shape]);
  }
  const rows = elementCount(x.shape.slice(0, -1));
  const outputs = [
    { shape: x.shape, dtype: f32 },
    { shape: [rows], dtype: f32 },
  ];
  return applyAll(opRmsNorm, [x, weight], outputs, [epsilon])[0]!;
}

const opLayerNormGrad = defineOp({ name: "layer_norm_grad", kernel: "layer_norm_grad" });
const opLayerNorm = defineOp({
  name: "layer_norm",
  kernel: "layer_norm",
  gradient: ({ inputs, outputs, upstream }) => {
    const [x, weight, bias] = inputs as [Tensor, Tensor | null, Tensor | null];
    const width = { shape: [lastSize(x.shape)], dtype: f32 };
    const [dx, dweight, dbias] = applyAll(
      opLayerNormGrad,
      [upstream[0]!, x, weight, outputs[1]!, outputs[2]!],
      [{ shape: x.shape, dtype: f32 }, width, width],
    );
    return [dx!, weight ? dweight! : null, bias ? dbias! : null];
  },
});

/** LayerNorm over the last axis, `(x - mean) / sqrt(variance + epsilon) weight + bias`. x [.., D], weight and bias [D]. */
export function layerNorm(x: Tensor, weight: Tensor | null, bias: Tensor | null, epsilon = 1e-5): Tensor {
  for (const each of [weight, bias]) {
    if (each && !sameShape(each.shape, [lastSize(x.shape)])) {
      throw new ShapeError("layerNorm", "weight and bias must have the size of the last axis", [x.shape, each.shape]);
    }
  }
  const row = { shape: [elementCount(x.shape.slice(0, -1))], dtype: f32 };
  return applyAll(opLayerNorm, [x, weight, bias], [{ shape: x.shape, dtype: f32 }, row, row], [epsilon])[0]!;
}
