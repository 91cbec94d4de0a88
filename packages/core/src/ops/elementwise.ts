import { checkDtype, type Dtype } from "../tensor/dtype.js";
import { ShapeError } from "../tensor/errors.js";
import { broadcastShapes, checkShape, type Shape, sameShape } from "../tensor/shape.js";
import { full, type Tensor } from "../tensor/tensor.js";
import { requireTensor } from "./check-arguments.js";
import { apply, defineOp, type GradientRule, type Op, unchanged } from "./op.js";

/** A tensor, or a number that stands for a scalar. */
export type TensorLike = Tensor | number;

function asTensor(value: TensorLike): Tensor {
  if (typeof value === "number") return full([], value);
  requireTensor("elementwise op", value);
  return value;
}

/** The value of a constant fill, else undefined. */
const constantOf = (value: TensorLike): number | undefined => {
  if (typeof value === "number") return value;
  return value.source.kind === "full" ? value.source.value : undefined;
};

function elementwise(opcode: number, name: string, gradient?: GradientRule | "zero"): Op {
  const op: Op = { name, kernel: "elementwise", opcode, broadcasts: true, operands: ["any"] };
  return defineOp(gradient ? { ...op, gradient } : op);
}

function build(op: Op, inputs: Tensor[], dtype: Dtype, attributes: number[] = []): Tensor {
  for (const input of inputs) requireTensor(op.name, input);
  return apply(
    op,
    inputs,
    {
      shape: broadcastShapes(
        op.name,
        inputs.map((input) => input.shape),
      ),
      dtype,
    },
    attributes,
  );
}

// i32 stays i32 under these; everything else computes and answers in f32.
const arithmeticDtype = (inputs: Tensor[]): Dtype => (inputs.every((input) => input.dtype === "i32") ? "i32" : "f32");

// A number has the dtype that suits x; a constant tensor has its own.
const immediateDtype = (x: Tensor, like: TensorLike): Dtype => {
  const whole = typeof like === "number" ? Number.isInteger(like) : like.dtype === "i32";
  return x.dtype === "i32" && whole ? "i32" : "f32";
};

// What an op that changes no value answers.
const computed = (x: Tensor, dtype: Dtype): Tensor => (x.dtype === dtype ? unchanged(x) : cast(x, dtype));

type UnaryRule = (x: Tensor, y: Tensor, dy: Tensor) => Tensor;
const unaryRule =
  (rule: UnaryRule): GradientRule =>
  ({ inputs, outputs, upstream }) => [rule(inputs[0]!, outputs[0]!, upstream[0]!)];

type BinaryRule = (a: Tensor, b: Tensor, y: Tensor, dy: Tensor, side: 0 | 1) => Tensor;
const binaryRule =
  (rule: BinaryRule): GradientRule =>
  ({ inputs, outputs, upstream, needs }) =>
    ([0, 1] as const).map((side) =>
      needs[side] ? rule(inputs[0]!, inputs[1]!, outputs[0]!, upstream[0]!, side) : null,
    );

const opCopy = elementwise(0, "broadcast", ({ upstream }) => [upstream[0]!]);
// Truncation is flat wherever it has a slope.
const opCast = elementwise(0, "cast_elementwise", ({ outputs, upstream }) => [
  outputs[0]!.dtype === "i32" ? null : upstream[0]!,
]);
const opAdd = elementwise(
  2,
  "add",
  binaryRule((_a, _b, _y, dy) => dy),
);
const opSubtract = elementwise(
  3,
  "subtract",
  binaryRule((_a, _b, _y, dy, side) => (side === 0 ? dy : negate(dy))),
);
const opMultiply = elementwise(
  4,
  "multiply",
  binaryRule((a, b, _y, dy, side) => multiply(dy, side === 0 ? b : a)),
);
const opDivide = elementwise(
  5,
  "divide",
  binaryRule((_a, b, y, dy, side) => (side === 0 ? divide(dy, b) : negate(divide(multiply(dy, y), b)))),
);
// Where both are equal each side gets half, as in PyTorch.
const half = (a: Tensor, b: Tensor): Tensor => add(less(b, a), multiply(equal(a, b), 0.5));
const opMaximum = elementwise(
  6,
  "maximum",
  binaryRule((a, b, _y, dy, side) => multiply(dy, side === 0 ? half(a, b) : half(b, a))),
);
const opMinimum = elementwise(
  7,
  "minimum",
  binaryRule((a, b, _y, dy, side) => multiply(dy, side === 0 ? half(b, a) : half(a, b))),
);
const opPower = elementwise(
  8,
  "power",
  binaryRule((a, b, y, dy, side) =>
    side === 0
      ? multiply(dy, where(equal(b, 0), 0, multiply(b, power(a, subtract(b, 1)))))
      : multiply(dy, where(equal(a, 0), 0, multiply(y, log(a)))),
  ),
);
const opNegate = elementwise(
  9,
  "negate",
  unaryRule((_x, _y, dy) => negate(dy)),
);
const opAbsolute = elementwise(
  10,
  "absolute",
  unaryRule((x, _y, dy) => multiply(dy, sign(x))),
);
const opExp = elementwise(
  11,
  "exp",
  unaryRule((_x, y, dy) => multiply(dy, y)),
);
const opLog = elementwise(
  12,
  "log",
  unaryRule((x, _y, dy) => divide(dy, x)),
);
const opSqrt = elementwise(
  13,
  "sqrt",
  unaryRule((_x, y, dy) => multiply(divide(dy, y), 0.5)),
);
const opRsqrt = elementwise(
  14,
  "rsqrt",
  unaryRule((_x, y, dy) => multiply(multiply(dy, multiply(y, square(y))), -0.5)),
);
const opSin = elementwise(
  15,
  "sin",
  unaryRule((x, _y, dy) => multiply(dy, cos(x))),
);
const opCos = elementwise(
  16,
  "cos",
  unaryRule((x, _y, dy) => negate(multiply(dy, sin(x)))),
);
const opTanh = elementwise(
  17,
  "tanh",
  unaryRule((_x, y, dy) => multiply(dy, subtract(1, square(y)))),
);
const opSigmoid = elementwise(
  18,
  "sigmoid",
  unaryRule((_x, y, dy) => multiply(dy, multiply(y, subtract(1, y)))),
);
const opSilu = elementwise(
  19,
  "silu",
  unaryRule((x, _y, dy) => build(opSiluGrad, [x, dy], "f32")),
);
const opGelu = elementwise(
  20,
  "gelu",
  unaryRule((x, _y, dy) => build(opGeluGrad, [x, dy], "f32")),
);
const opErf = elementwise(
  21,
  "erf",
  unaryRule((x, _y, dy) => multiply(dy, multiply(exp(negate(square(x))), 2 / Math.sqrt(Math.PI)))),
);
const opRelu = elementwise(
  22,
  "relu",
  unaryRule((x, _y, dy) => multiply(dy, less(0, x))),
);
const opSquare = elementwise(
  23,
  "square",
  unaryRule((x, _y, dy) => multiply(multiply(dy, x), 2)),
);
const opReciprocal = elementwise(
  24,
  "reciprocal",
  unaryRule((_x, y, dy) => negate(multiply(dy, square(y)))),
);
const opFloor = elementwise(25, "floor", "zero");
const opRound = elementwise(26, "round", "zero");
const opSign = elementwise(27, "sign", "zero");
const opLess = elementwise(28, "less", "zero");
const opLessEqual = elementwise(29, "less_equal", "zero");
const opEqual = elementwise(30, "equal", "zero");
const opNotEqual = elementwise(31, "not_equal", "zero");
const opWhere = elementwise(32, "where", ({ inputs, upstream, needs }) => {
  const [condition, dy] = [inputs[0]!, upstream[0]!];
  return [null, needs[1] ? where(condition, dy, 0) : null, needs[2] ? where(condition, 0, dy) : null];
});
const opAddImmediate = elementwise(33, "add_immediate", ({ upstream }) => [upstream[0]!]);
const opMultiplyImmediate = elementwise(34, "multiply_immediate", ({ attributes, upstream }) => [
  multiply(upstream[0]!, attributes[0]!),
]);
const opSoftplus = elementwise(
  35,
  "softplus",
  unaryRule((x, _y, dy) => multiply(dy, sigmoid(x))),
);
const opSiluGrad = elementwise(37, "silu_grad");
const opGeluGrad = elementwise(38, "gelu_grad");
const opLogicalNot = elementwise(39, "logical_not", "zero");

/** `x` stretched to `shape` by NumPy's rules. */
export function broadcastTo(x: Tensor, shape: Shape): Tensor {
  if (sameShape(x.shape, shape)) return unchanged(x);
  checkShape("broadcastTo", shape);
  if (!sameShape(broadcastShapes("broadcastTo", [x.shape, shape]), shape))
    throw new ShapeError("broadcastTo", "the first shape does not stretch to the second", [x.shape, shape]);
  const value = constantOf(x);
  if (value !== undefined) return full(shape, value, x.dtype);
  return apply(opCopy, [x], { shape: [...shape], dtype: x.dtype });
}

/** `x` as another dtype: i32 truncates towards zero and has no gradient, bf16 rounds to nearest even. */
export function cast(x: Tensor, dtype: Dtype): Tensor {
  checkDtype("cast", dtype);
  return x.dtype === dtype ? unchanged(x) : apply(opCast, [x], { shape: x.shape, dtype });
}

/** a + b, broadcasting. */
export function add(a: TensorLike, b: TensorLike): Tensor {
  const [x, y] = [asTensor(a), asTensor(b)];
  const right = constantOf(b);
  if (right !== undefined && y.size === 1 && x.rank >= y.rank) {
    const dtype = immediateDtype(x, b);
    return right === 0 ? computed(x, dtype) : build(opAddImmediate, [x], dtype, [right]);
  }
  if (constantOf(a) !== undefined && x.size === 1 && y.rank >= x.rank) return add(y, a);
  return build(opAdd, [x, y], arithmeticDtype([x, y]));
}

/** a - b, broadcasting. */
export function subtract(a: TensorLike, b: TensorLike): Tensor {
  const [x, y] = [asTensor(a), asTensor(b)];
  const right = constantOf(b);
  if (right !== undefined && y.size === 1 && x.rank >= y.rank)
    return add(x, typeof b === "number" ? -right : full(y.shape, -right, y.dtype));
  return build(opSubtract, [x, y], arithmeticDtype([x, y]));
}

/** a * b, broadcasting. */
export function multiply(a: TensorLike, b: TensorLike): Tensor {
  const [x, y] = [asTensor(a), asTensor(b)];
  const right = constantOf(b);
  const stretches = sameShape(broadcastShapes("multiply", [x.shape, y.shape]), x.shape);
  if (right !== undefined && stretches) {
    const dtype = immediateDtype(x, b);
    if (right === 1) return computed(x, dtype);
    const left = constantOf(x);
    if (left !== undefined) return full(x.shape, left * right, dtype);
    return build(opMultiplyImmediate, [x], dtype, [right]);
  }
  if (constantOf(a) !== undefined && sameShape(broadcastShapes("multiply", [x.shape, y.shape]), y.shape))
    return multiply(y, a);
  return build(opMultiply, [x, y], arithmeticDtype([x, y]));
}

/** a / b, broadcasting; always f32. */
export function divide(a: TensorLike, b: TensorLike): Tensor {
  const x = asTensor(a);
  // Where the reciprocal is a normal number.
  if (typeof b === "number" && Math.abs(b) > 2 ** -126 && Math.abs(b) < 2 ** 126)
    return multiply(cast(x, "f32"), 1 / b);
  return build(opDivide, [x, asTensor(b)], "f32");
}

/** The larger of a and b; NaN if either is. */
export function maximum(a: TensorLike, b: TensorLike): Tensor {
  const inputs = [asTensor(a), asTensor(b)];
  return build(opMaximum, inputs, arithmeticDtype(inputs));
}

/** The smaller of a and b; NaN if either is. */
export function minimum(a: TensorLike, b: TensorLike): Tensor {
  const inputs = [asTensor(a), asTensor(b)];
  return build(opMinimum, inputs, arithmeticDtype(inputs));
}

/** a ** b, broadcasting. */
export function power(a: TensorLike, b: TensorLike): Tensor {
  if (b === 2) return square(asTensor(a));
  if (b === 0.5) return sqrt(asTensor(a));
  return build(opPower, [asTensor(a), asTensor(b)], "f32");
}

const unary = (op: Op) => (x: Tensor) => build(op, [x], "f32");
const comparison = (op: Op) => (a: TensorLike, b: TensorLike) => build(op, [asTensor(a), asTensor(b)], "f32");

/** -x */
export const negate = (x: Tensor): Tensor => build(opNegate, [x], arithmeticDtype([x]));
/** |x| */
export const absolute = (x: Tensor): Tensor => build(opAbsolute, [x], arithmeticDtype([x]));
/** e^x */
export const exp = unary(opExp);
/** Natural logarithm. */
export const log = unary(opLog);
export const sqrt = unary(opSqrt);
/** 1 / sqrt(x) */
export const rsqrt = unary(opRsqrt);
export const sin = unary(opSin);
export const cos = unary(opCos);
export const tanh = unary(opTanh);
/** 1 / (1 + e^-x) */
export const sigmoid = unary(opSigmoid);
/** x sigmoid(x) */
export const silu = unary(opSilu);
/** GELU in its tanh form: x/2 (1 + tanh(√(2/π) (x + 0.044715 x³))). */
export const gelu = unary(opGelu);
/** The error function. */
export const erf = unary(opErf);
/** max(x, 0) */
export const relu = unary(opRelu);
export const square = unary(opSquare);
/** 1 / x */
export const reciprocal = unary(opReciprocal);
export const floor = unary(opFloor);
/** To the nearest whole number, halves to even. */
export const round = unary(opRound);
/** -1, 0 or 1. */
export const sign = unary(opSign);
/** log(1 + e^x), stable for large |x|. */
export const softplus = unary(opSoftplus);
/** 1 where x is 0, else 0. */
export const logicalNot = unary(opLogicalNot);
/** 1 where a < b, else 0. */
export const less = comparison(opLess);
/** 1 where a <= b, else 0. */
export const lessEqual = comparison(opLessEqual);
/** 1 where a > b, else 0. */
export const greater = (a: TensorLike, b: TensorLike): Tensor => less(b, a);
/** 1 where a >= b, else 0. */
export const greaterEqual = (a: TensorLike, b: TensorLike): Tensor => lessEqual(b, a);
/** 1 where a == b, else 0. */
export const equal = comparison(opEqual);
/** 1 where a != b, else 0. */
export const notEqual = comparison(opNotEqual);

/** `yes` where `condition` is not 0, else `no`; broadcasting. */
export function where(condition: Tensor, yes: TensorLike, no: TensorLike): Tensor {
  const branches = [asTensor(yes), asTensor(no)];
  return build(opWhere, [condition, ...branches], arithmeticDtype(branches));
}

/** x limited to [low, high]. */
export const clamp = (x: Tensor, low: number, high: number): Tensor => minimum(maximum(x, low), high);
