import type { Tensor } from "../tensor/tensor.js";
import { apply, defineOp } from "./op.js";

const opStopGradient = defineOp({ name: "stop_gradient", kernel: "alias", operands: ["any"], gradient: "zero" });

/** The same values, a constant to differentiation. Costs nothing. */
export const stopGradient = (x: Tensor): Tensor => apply(opStopGradient, [x], { shape: x.shape, dtype: x.dtype });
