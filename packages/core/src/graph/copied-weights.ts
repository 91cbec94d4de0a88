import { cast } from "../ops/elementwise.js";
import { sameShape } from "../tensor/shape.js";
import { Parameter } from "../tensor/tensor.js";
import { type Instruction, type ProgramBuilder, rootOf, type Value } from "./program.js";
import type { Step } from "./step.js";

/** Operands that products round to bf16 unless they are it. */
const weightPlaces: Readonly<Record<string, readonly number[]>> = {
  matmul: [0, 1],
  grouped_matmul: [1],
  conv2d: [1],
  conv2d_input_grad: [1],
  linear_cross_entropy: [1],
};

interface Copy {
  readonly parameter: Parameter;
  /** Of the weight, when it was copied. */
  version: number;
}

const copies = new WeakMap<Parameter, Copy>();

/**
 * The products of a program with `adamw_` read bf16 copies of the weights that it updates, and it writes weight and copy in one pass:
 * they need no packing then. Two more bytes to a weight, as long as the weight is there.
 */
export function copyWeights(steps: readonly Step[], program: ProgramBuilder, pending: Map<Value, Value>): void {
  const reads = new Map<Value, { instruction: Instruction; input: number }[]>();
  for (const step of steps) {
    if (step.kind !== "kernel") continue;
    for (const input of weightPlaces[step.instruction.op] ?? []) {
      const value = step.instruction.inputs[input];
      if (value?.dtype !== "f32" || rootOf(value).origin.kind !== "state") continue;
      const found = reads.get(rootOf(value)) ?? [];
      found.push({ instruction: step.instruction, input });
      reads.set(rootOf(value), found);
    }
  }
  const copied: Parameter[] = [];
  for (const step of steps) {
    if (step.kind !== "kernel" || step.instruction.op !== "adamw_") continue;
    const { inputs, outputs } = step.instruction;
    const count = (inputs.length - 1) / 4;
    const made = Array.from({ length: count }, (_, i) => {
      const weight = inputs[1 + 4 * i]!;
      const readers = reads.get(weight);
      if (!readers || weight.origin.kind !== "state" || pending.get(weight) !== outputs[3 * i]) return undefined;
      copied.push(weight.origin.parameter);
      const { parameter } = copyOf(weight.origin.parameter);
      const before = program.value(weight.shape, "bf16", { kind: "state", parameter });
      const after = program.temporary(weight.shape, "bf16");
      pending.set(before, after);
      for (const { instruction, input } of readers) {
        const { shape } = instruction.inputs[input]!;
        instruction.inputs[input] = sameShape(shape, before.shape) ? before : program.temporary(shape, "bf16", before);
      }
      return { before, after };
    });
    if (made.every((copy) => !copy)) continue;
    step.inPlace = [
      ...step.inPlace,
      ...made.flatMap((copy, i) => (copy ? [[outputs.length + i, inputs.length + i] as const] : [])),
    ];
    inputs.push(...made.map((copy) => copy?.before ?? null));
    outputs.push(...made.map((copy) => copy?.after ?? null));
  }
  program.copiedWeights = copied;
}

function copyOf(weight: Parameter): Copy {
  let copy = copies.get(weight);
  if (!copy) {
    copy = { parameter: new Parameter(weight.shape, { dtype: "bf16", trainable: false }), version: -1 };
    copies.set(weight, copy);
    weight.attached.push(copy.parameter);
  }
  return copy;
}

/** Before a run: weights that something else has written since are copied again. */
export function refreshCopies(weights: readonly Parameter[]): void {
  for (const weight of weights) {
    const copy = copyOf(weight);
    if (copy.version !== weight.version) copy.parameter.assign(cast(weight, "bf16"));
  }
}

/** After a run has been asked for that writes weights and their copies. */
export function copiesAreFresh(weights: readonly Parameter[]): void {
  for (const weight of weights) copyOf(weight).version = weight.version;
}
