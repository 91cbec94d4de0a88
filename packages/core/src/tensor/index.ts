export type { Dtype, HostArray } from "./dtype.js";
export { DtypeError, GradientError, InvalidUseError, ShapeError, TrefoilError } from "./errors.js";
export type { Shape } from "./shape.js";
export { full, type NestedArray, ones, Parameter, Tensor, tensor, zeros } from "./tensor.js";
