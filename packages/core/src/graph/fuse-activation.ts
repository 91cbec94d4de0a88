import type { Instruction, ProgramBuilder, Value } from "./program.js";
import { countReaders } from "./readers.js";
import type { Step } from "./step.js";

/** Opcodes of elementwise ops (docs/ops.md) that a matmul applies itself, by its attribute `activation`. */
const activations: ReadonlyMap<number, number> = new Map([
  [22, 1], // relu
  [20, 2], // gelu
  [19, 3], // silu
]);
const residualInput = 3;
const activationAttribute = 3;

/**
 * `act(matmul(a, b) + bias)` becomes one matmul that applies the activation while its tile is in cache, where nothing else reads the
 * product. A gradient does; a matmul that writes both takes longer than the two ops.
 */
export function fuseActivations(steps: readonly Step[], program: ProgramBuilder, pinned: ReadonlySet<Value>): Step[] {
  const readers = countReaders(steps, program, pinned);
  const matmuls = new Map<Value, Instruction>();
  const matmulOf = (value: Value): Instruction | undefined => {
    for (let at: Value | undefined = value; at && readers.get(at) === 1; at = at.alias) {
      const found = matmuls.get(at);
      if (found) return found;
    }
    return undefined;
  };
  return steps.filter((step) => {
    if (step.kind === "kernel") {
      const { instruction } = step;
      if (instruction.op === "matmul" && !instruction.inputs[residualInput]) {
        matmuls.set(instruction.outputs[0]!, instruction);
      }
      return true;
    }
    const only = step.node.instructions.length === 1 ? step.node.instructions[0]! : undefined;
    const activation = only && activations.get(only.opcode);
    const instruction = activation && matmulOf(only.operands[0]!);
    if (!instruction || step.node.output.dtype !== "f32") return true;
    const product = instruction.outputs[0]!;
    instruction.attributes = instruction.attributes.map((each, i) => (i === activationAttribute ? activation : each));
    step.node.output.alias = product;
    matmuls.delete(product);
    return false;
  });
}
