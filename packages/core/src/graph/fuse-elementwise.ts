import { sameShape } from "../tensor/shape.js";
import type { Instruction, ProgramBuilder, Value } from "./program.js";
import { countReaders } from "./readers.js";
import type { ElementwiseNode, Step } from "./step.js";

// Registers of a chain are tiles in L1: keep them to what fits there.
const maxInstructions = 32;
const maxInputs = 12;

const inputsOf = (node: ElementwiseNode): Set<Value> => {
  const results = new Set(node.instructions.map(({ result }) => result));
  return new Set(node.instructions.flatMap(({ operands }) => operands).filter((value) => !results.has(value)));
};

/** Merges an elementwise op into its only reader when both have the same shape: the value between them is never stored. */
export function fuseElementwise(steps: readonly Step[], program: ProgramBuilder, pinned: ReadonlySet<Value>): Step[] {
  const readers = countReaders(steps, program, pinned);
  const producers = new Map<Value, ElementwiseNode>();
  const merged = new Set<ElementwiseNode>();
  for (const step of steps) {
    if (step.kind !== "elementwise") continue;
    const { node } = step;
    for (const operand of inputsOf(node)) {
      const producer = producers.get(operand);
      // Registers are f32: a value that was rounded to i32 or bf16 must be stored to be rounded.
      if (!producer || operand.dtype !== "f32" || !sameShape(operand.shape, node.output.shape)) continue;
      const uses = node.instructions.flatMap(({ operands }) => operands).filter((value) => value === operand).length;
      if (readers.get(operand) !== uses) continue;
      if (producer.instructions.length + node.instructions.length > maxInstructions) continue;
      if (new Set([...inputsOf(producer), ...inputsOf(node)]).size - 1 > maxInputs) continue;
      node.instructions = [...producer.instructions, ...node.instructions];
      merged.add(producer);
    }
    producers.set(node.output, node);
  }
  return steps.filter((step) => step.kind !== "elementwise" || !merged.has(step.node));
}

const opcodeConstant = 1;

/** The `elementwise` launch of a chain: inputs first, then constants, then the chain (docs/ops.md). */
export function emitChain(node: ElementwiseNode): Instruction {
  const operands = [...inputsOf(node)];
  const inputs = operands.filter(({ origin }) => origin.kind !== "fill");
  const constants = operands.filter(({ origin }) => origin.kind === "fill");
  const registers = new Map<Value, number>();
  for (const value of [...inputs, ...constants]) registers.set(value, registers.size);
  const code: number[] = [];
  for (const { origin } of constants) code.push(opcodeConstant, 0, 0, 0, origin.kind === "fill" ? origin.value : 0);
  for (const { opcode, operands: used, immediate, result } of node.instructions) {
    const [a = 0, b = 0, c = 0] = used.map((value) => registers.get(value)!);
    code.push(opcode, a, b, c, immediate);
    registers.set(result, registers.size);
  }
  const count = constants.length + node.instructions.length;
  const outputs = node.rounded ? [node.output, node.rounded] : [node.output];
  return {
    op: "elementwise",
    inputs,
    outputs,
    attributes: [count, ...code, ...outputs.map(() => registers.get(node.output)!)],
  };
}
