export { gradients, valueAndGrad } from "./autograd.js";
export { type CompiledFunction, type CompileOptions, compile, NonFiniteError } from "./compile.js";
export { RandomGenerator } from "./random.js";
export { recompute } from "./recompute.js";
