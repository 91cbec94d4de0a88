import type { Tensor } from "../tensor/tensor.js";

/** Tensors that an op made and that have been evaluated: constants by now. Beside the tensors, so that equal ones compare as equal. */
export const evaluatedTensors = new WeakSet<Tensor>();
