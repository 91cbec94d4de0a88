import { opOf } from "../ops/op.js";
import type { OpNode, Parameter, Tensor } from "../tensor/tensor.js";
import { storeActivationsAsBf16 } from "./bf16-activations.js";
import { copyWeights } from "./copied-weights.js";
import { eliminateDeadCode } from "./dead-code.js";
import { fuseActivations } from "./fuse-activation.js";
import { emitChain, fuseElementwise } from "./fuse-elementwise.js";
import { fuseResiduals } from "./fuse-residual.js";
import { numberText } from "./number-text.js";
import { topologicalOrder } from "./order.js";
import { ProgramBuilder, rootOf, type Value } from "./program.js";
import type { Step } from "./step.js";

/** What products read in the place of weights, or of several joined along their first axis. */
export interface WeightSource {
  of(weights: readonly Parameter[]): Parameter;
}

export interface LowerOptions {
  /** Copies of weights, which products read in their place. */
  copies?: WeightSource | undefined;
  /** How values between kernels are stored. Default "f32". */
  activations?: "f32" | "bf16";
}

interface Lowering {
  program: ProgramBuilder;
  steps: Step[];
}

/**
 * Turns a graph into a program: schedule, common subexpressions, epilogue fusion, elementwise fusion, bf16 activations, in-place
 * updates, dead code. Assignments take effect after everything that reads the old value.
 * @param inputs leaves that are given to every run, in this order; other parameters become fixed state, host data constants
 */
export function lower(
  outputs: readonly Tensor[],
  assignments: ReadonlyMap<Parameter, Tensor>,
  inputs: readonly Tensor[],
  { copies, activations = "f32" }: LowerOptions = {},
): ProgramBuilder {
  // A weight that this program writes has a new value before its copy has.
  const copyOf = (weights: readonly Parameter[]) =>
    weights.some((weight) => assignments.has(weight)) ? undefined : copies?.of(weights);
  const { lowering, valueFor } = buildSteps([...outputs, ...assignments.values()], inputs, copyOf);
  const { program } = lowering;
  program.outputs = outputs.map((output) => materialised(lowering, valueFor(output)));
  const pending = new Map<Value, Value>();
  for (const [parameter, value] of assignments)
    pending.set(valueFor(parameter), materialised(lowering, valueFor(value)));

  protectOldValues(lowering, pending);
  lowering.steps = fuseResiduals(lowering.steps, program, pinned(program, pending));
  lowering.steps = fuseActivations(lowering.steps, program, pinned(program, pending));
  lowering.steps = fuseElementwise(lowering.steps, program, pinned(program, pending));
  if (activations === "bf16") {
    lowering.steps = storeActivationsAsBf16(lowering.steps, program, pinned(program, pending));
    copyWeights(lowering.steps, program, pending);
  }
  resolveInPlace(lowering, pending);
  for (const step of lowering.steps) {
    program.instructions.push(step.kind === "kernel" ? step.instruction : emitChain(step.node));
  }
  // What no in-place op wrote is copied home at the end, when nobody reads the old value any more.
  for (const [state, value] of pending) {
    const target = program.temporary(state.shape, state.dtype, state);
    program.instructions.push({ op: "copy", inputs: [value], outputs: [target], attributes: [] });
  }
  eliminateDeadCode(program);
  return program;
}

/** Values that must exist by name: what is returned or assigned. */
function pinned(program: ProgramBuilder, pending: ReadonlyMap<Value, Value>): Set<Value> {
  return new Set([...program.outputs, ...pending.values()]);
}

/** Kernels whose second operand may be stored in bf16. */
const products: ReadonlySet<string> = new Set(["matmul", "grouped_matmul"]);

function buildSteps(
  roots: readonly Tensor[],
  given: readonly Tensor[],
  copyOf: (weights: readonly Parameter[]) => Parameter | undefined,
): { lowering: Lowering; valueFor: (tensor: Tensor) => Value } {
  const program = new ProgramBuilder();
  const steps: Step[] = [];
  const lowering = { program, steps };
  const leaves = new Map<unknown, Value>();
  const produced = new Map<OpNode, Value[]>();
  const common = new Map<string, Value[]>();
  const joined = new Map<Value, readonly Parameter[]>();

  const leafValue = (tensor: Tensor): Value => {
    const { source } = tensor;
    const key = source.kind === "full" ? `${source.value}:${tensor.dtype}[${tensor.shape.join(",")}]` : tensor;
    const known = leaves.get(key);
    if (known) return known;
    let value: Value;
    if (source.kind === "full")
      value = program.value(tensor.shape, tensor.dtype, { kind: "fill", value: source.value });
    else if (source.kind === "parameter") {
      value = program.value(tensor.shape, tensor.dtype, { kind: "state", parameter: tensor as Parameter });
    } else if (source.kind === "host")
      value = program.value(tensor.shape, tensor.dtype, { kind: "constant", data: source.data });
    else if (source.kind === "storage")
      value = program.value(tensor.shape, tensor.dtype, { kind: "held", storage: source.storage });
    else throw new Error(`a ${source.kind} tensor cannot be fixed in a program`);
    leaves.set(key, value);
    return value;
  };
  given.forEach((leaf, index) => {
    leaves.set(leaf, program.value(leaf.shape, leaf.dtype, { kind: "input", index }));
  });
  const valueFor = (tensor: Tensor): Value =>
    tensor.source.kind === "op" ? produced.get(tensor.source.node)![tensor.source.output]! : leafValue(tensor);

  const stored = (value: Value): Value => {
    const weights = value.dtype === "f32" ? weightsOf(value) : undefined;
    const copy = weights && copyOf(weights);
    return copy ? leafValue(copy) : value;
  };
  const weightsOf = (value: Value): readonly Parameter[] | undefined =>
    value.origin.kind === "state" ? [value.origin.parameter] : joined.get(value);

  for (const node of topologicalOrder(roots)) {
    const op = opOf(node);
    const inputs = node.inputs.map((input) => input && valueFor(input));
    if (products.has(op.kernel)) inputs[1] = stored(inputs[1]!);
    // Scalars and types are part of the key: a reshape or cast of the same input is another value.
    const types = node.outputs.map((type) => `${type.dtype}[${type.shape.join(",")}]`).join(";");
    const key = `${op.name}(${inputs.map((input) => input?.id ?? "_").join(",")}){${node.attributes.map(numberText)}}${types}`;
    const repeat = op.inPlace ? undefined : common.get(key);
    if (repeat) {
      produced.set(node, repeat);
      continue;
    }
    let outputs: Value[];
    if (op.kernel === "alias") {
      // Output i is input i; further inputs only have to be there first.
      outputs = node.outputs.map(({ shape, dtype }, i) =>
        program.temporary(shape, dtype, materialised(lowering, inputs[i]!)),
      );
    } else if (op.kernel === "elementwise") {
      const type = node.outputs[0]!;
      const output = program.temporary(type.shape, type.dtype);
      outputs = [output];
      const operands = inputs.map((input) => input!);
      steps.push({
        kind: "elementwise",
        node: {
          output,
          instructions: [{ opcode: op.opcode!, operands, immediate: node.attributes[0] ?? 0, result: output }],
        },
      });
    } else {
      outputs = node.outputs.map((type) => program.temporary(type.shape, type.dtype));
      steps.push({
        kind: "kernel",
        instruction: {
          op: op.kernel,
          inputs: inputs.map((input) => input && materialised(lowering, input)),
          outputs: [...outputs],
          attributes: node.attributes,
        },
        inPlace: op.inPlace?.(node) ?? [],
      });
    }
    produced.set(node, outputs);
    if (op.kernel === "concat" && node.attributes[0] === 0) {
      const weights = inputs.flatMap((input) => (input?.origin.kind === "state" ? [input.origin.parameter] : []));
      if (weights.length === inputs.length) joined.set(outputs[0]!, weights);
    }
    if (!op.inPlace) common.set(key, outputs);
  }
  return { lowering, valueFor };
}

const filled = new WeakMap<Value, Value>();

/** A constant fill is an immediate inside elementwise ops; every other reader needs it in memory. */
function materialised(lowering: Lowering, value: Value): Value {
  if (value.origin.kind !== "fill") return value;
  const known = filled.get(value);
  if (known) return known;
  const output = lowering.program.temporary(value.shape, value.dtype);
  const immediate = value.origin.value;
  lowering.steps.push({
    kind: "elementwise",
    node: { output, instructions: [{ opcode: 1, operands: [], immediate, result: output }] },
  });
  filled.set(value, output);
  return output;
}

/** Returning or assigning the old value of a parameter that this program writes: copy it before anything is written. */
function protectOldValues(lowering: Lowering, pending: Map<Value, Value>): void {
  const { program } = lowering;
  const early: Step[] = [];
  const protect = (value: Value): Value => {
    if (!pending.has(rootOf(value))) return value;
    const copy = program.temporary(value.shape, value.dtype);
    early.push({
      kind: "kernel",
      instruction: { op: "copy", inputs: [value], outputs: [copy], attributes: [] },
      inPlace: [],
    });
    return copy;
  };
  program.outputs = program.outputs.map(protect);
  for (const [state, value] of pending) {
    if (rootOf(value) === state) pending.delete(state);
    else pending.set(state, protect(value));
  }
  lowering.steps.unshift(...early);
}

const readsOf = (step: Step): (Value | null)[] =>
  step.kind === "kernel" ? step.instruction.inputs : step.node.instructions.flatMap(({ operands }) => operands);

/** Lets an in-place op write where its operand is, if nobody reads the old value later; else it gets a copy. */
function resolveInPlace(lowering: Lowering, pending: Map<Value, Value>): void {
  const { program } = lowering;
  // Storage is compared when an op is resolved: by then earlier in-place results share their operand's.
  const reads = lowering.steps.flatMap((step, at) => readsOf(step).flatMap((value) => (value ? [{ value, at }] : [])));
  for (const value of [...program.outputs, ...pending.values()]) reads.push({ value, at: Number.POSITIVE_INFINITY });
  const home = new Map([...pending].map(([state, value]) => [value, state]));

  lowering.steps = lowering.steps.flatMap((step, at) => {
    if (step.kind !== "kernel" || step.inPlace.length === 0) return [step];
    const before: Step[] = [];
    for (const [outputIndex, inputIndex] of step.inPlace) {
      const output = step.instruction.outputs[outputIndex];
      const input = step.instruction.inputs[inputIndex]!;
      const root = rootOf(input);
      const readLater = reads.some((read) => read.at > at && rootOf(read.value) === root);
      const stays = root.origin.kind === "state" && output && home.get(output) === root;
      if (!readLater && (stays || root.origin.kind === "temporary")) {
        if (output) output.alias = input;
        if (stays) pending.delete(root);
        continue;
      }
      const copy = program.temporary(input.shape, input.dtype);
      before.push({
        kind: "kernel",
        instruction: { op: "copy", inputs: [input], outputs: [copy], attributes: [] },
        inPlace: [],
      });
      step.instruction.inputs[inputIndex] = copy;
      if (output) output.alias = copy;
    }
    return [...before, step];
  });
}
