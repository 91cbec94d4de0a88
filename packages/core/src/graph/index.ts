export { gradients, valueAndGrad } from "./autograd.js";
export { type CompiledFunction, compile, NonFiniteError } from "./compile.js";
export { RandomGenerator } from "./random.js";
export { recompute } from "./recompute.js";
