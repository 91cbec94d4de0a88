import type { Dtype } from "../tensor/dtype.js";
import { DtypeError, GradientError, InvalidUseError } from "../tensor/errors.js";
import { checkShape } from "../tensor/shape.js";
import { type OpNode, type OpSpec, Parameter, Tensor, type TensorType } from "../tensor/tensor.js";

/** What a gradient rule sees. It returns one gradient per input, `null` where there is none; all in terms of ops. */
export interface GradientRequest {
  readonly inputs: readonly (Tensor | null)[];
  readonly outputs: readonly Tensor[];
  readonly attributes: readonly number[];
  /** Gradient of the loss with respect to each output; null where the output does not reach the loss. */
  readonly upstream: readonly (Tensor | null)[];
  /** Which inputs need a gradient; the others may be left null. */
  readonly needs: readonly boolean[];
}

/** What an operand may be. "float": f32, or bf16 as storage. */
type OperandDtype = Dtype | "float" | "any";

export type GradientRule = (request: GradientRequest) => (Tensor | null)[];

/** An op: its kernel and its gradient. Its shape rule is the public function that builds it, in the same file. */
export interface Op extends OpSpec {
  /** Native op (docs/ops.md); "alias" needs none: the result shares the input's storage. */
  readonly kernel: string;
  /** Opcode inside the `elementwise` kernel. */
  readonly opcode?: number;
  /** What each input may be, the last one also for those after it. Default: all f32. */
  readonly operands?: readonly OperandDtype[];
  /** Absent: not differentiable, and asking for a gradient through it is a GradientError. "zero": its gradient is 0 everywhere. */
  readonly gradient?: GradientRule | "zero";
  /** Inputs stretch to a common shape by NumPy's rules. Gradients have that shape; autograd sums them back to each input's. */
  readonly broadcasts?: boolean;
  /** `[output, input]` pairs that share storage: the kernel updates the input where it is. */
  readonly inPlace?: (node: OpNode) => readonly (readonly [number, number])[];
}

const registry = new Map<string, Op>();

/** Declares an op. Each name once. */
export function defineOp(op: Op): Op {
  if (registry.has(op.name)) throw new InvalidUseError(`op "${op.name}" is defined twice`);
  registry.set(op.name, op);
  return op;
}

/** Every op that has been declared. */
export const allOps = (): Op[] => [...registry.values()];

let currentValue: (tensor: Tensor) => Tensor = (tensor) => tensor;

/** @internal The trace layer maps a parameter that was assigned in this trace to its new value. */
export function installCurrentValue(map: (tensor: Tensor) => Tensor): void {
  currentValue = map;
}

const accepts = (expected: OperandDtype, dtype: Dtype): boolean =>
  expected === "any" || expected === dtype || (expected === "float" && dtype !== "i32");

/** Kernels read what they are given as what they expect. */
function checkOperands({ name, operands = ["f32"] }: Op, inputs: readonly (Tensor | null)[]): void {
  inputs.forEach((input, at) => {
    const expected = operands[Math.min(at, operands.length - 1)]!;
    if (!input || accepts(expected, input.dtype)) return;
    const wanted = expected === "float" ? "f32 or bf16" : expected;
    const dtypes = inputs.map((each) => each?.dtype ?? "none");
    throw new DtypeError(name, `operand ${at} must be ${wanted}; cast it first`, dtypes);
  });
}

/** Builds one use of an op: its output tensors. */
export function applyAll(
  op: Op,
  inputs: readonly (Tensor | null)[],
  outputs: readonly TensorType[],
  attributes: readonly number[] = [],
): Tensor[] {
  checkOperands(op, inputs);
  for (const { shape } of outputs) checkShape(op.name, shape);
  const values = inputs.map((input) => input && currentValue(input));
  const parameters = values.filter((value) => value instanceof Parameter);
  const versions = parameters.map((parameter) => [parameter, parameter.version] as const);
  const node: OpNode = { op, inputs: values, attributes, outputs, ...(versions.length > 0 && { versions }) };
  return outputs.map((type, output) => new Tensor(type.shape, type.dtype, { kind: "op", node, output }));
}

/** `applyAll` for an op of one output. */
export function apply(
  op: Op,
  inputs: readonly (Tensor | null)[],
  output: TensorType,
  attributes: readonly number[] = [],
): Tensor {
  return applyAll(op, inputs, [output], attributes)[0]!;
}

const opUnchanged = defineOp({
  name: "unchanged",
  kernel: "alias",
  operands: ["any"],
  gradient: ({ upstream }) => [upstream[0]!],
});

/** What an op that changes nothing answers. Of a parameter: its value here, which stays what it is when the parameter is assigned. */
export const unchanged = (x: Tensor): Tensor => (x instanceof Parameter ? apply(opUnchanged, [x], x) : x);

/** The descriptor behind a node. */
export const opOf = (node: OpNode): Op => node.op as Op;

/** For outputs whose upstream gradient an op cannot use. */
export function refuseUpstream(op: string, request: GradientRequest, outputs: readonly number[], advice: string): void {
  for (const output of outputs) {
    if (request.upstream[output]) throw new GradientError(op, `output ${output} has no gradient; ${advice}`);
  }
}
