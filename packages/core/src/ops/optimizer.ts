import type { Tensor } from "../tensor/tensor.js";
import { applyAll, defineOp } from "./op.js";

const opAdamW = defineOp({
  name: "adamw_",
  kernel: "adamw_",
  // hyper, then (p, g, m, v) per parameter, to (p, m, v) per parameter.
  inPlace: (node) =>
    Array.from({ length: (node.inputs.length - 1) / 4 }, (_, i) => [
      [3 * i, 1 + 4 * i] as const,
      [3 * i + 1, 3 + 4 * i] as const,
      [3 * i + 2, 4 + 4 * i] as const,
    ]).flat(),
});

export interface AdamWSlot {
  parameter: Tensor;
  gradient: Tensor;
  firstMoment: Tensor;
  secondMoment: Tensor;
  weightDecay: number;
}

/**
 * One fused AdamW update of many tensors (Decoupled Weight Decay, arXiv 1711.05101). Where the gradient scale is not finite
 * nothing changes.
 * @param hyper [3]: learning rate, gradient scale, step counted from 1
 * @returns parameter, first and second moment of each slot
 */
export function adamW(
  hyper: Tensor,
  slots: readonly AdamWSlot[],
  options: { beta1: number; beta2: number; epsilon: number },
): { parameter: Tensor; firstMoment: Tensor; secondMoment: Tensor }[] {
  const outputs = applyAll(
    opAdamW,
    [hyper, ...slots.flatMap((slot) => [slot.parameter, slot.gradient, slot.firstMoment, slot.secondMoment])],
    slots.flatMap(({ parameter }) =>
      Array.from({ length: 3 }, () => ({ shape: parameter.shape, dtype: parameter.dtype })),
    ),
    [options.beta1, options.beta2, options.epsilon, ...slots.map((slot) => slot.weightDecay)],
  );
  return slots.map((_, i) => ({
    parameter: outputs[3 * i]!,
    firstMoment: outputs[3 * i + 1]!,
    secondMoment: outputs[3 * i + 2]!,
  }));
}
