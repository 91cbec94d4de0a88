import { elementCount, lastSize, sameShape } from "../tensor/shape.js";
import type { Instruction, ProgramBuilder, Value } from "./program.js";
import { countReaders } from "./readers.js";
import type { Step } from "./step.js";

const opcodeAdd = 2;
const biasInput = 2;
const residualInput = 3;

/**
 * `matmul(a, b) + c` becomes one matmul with c as bias or residual, added while the product is in registers. This covers
 * residual connections, biases, and the sums of gradients that several matmuls send to one tensor.
 */
export function fuseResiduals(steps: readonly Step[], program: ProgramBuilder, pinned: ReadonlySet<Value>): Step[] {
  const readers = countReaders(steps, program, pinned);
  const matmuls = new Map<Value, { instruction: Instruction; at: number; step: Step }>();
  const result: (Step | null)[] = [];

  /** The matmul whose product only this use of `value` reads, perhaps through reshapes. */
  const onlyReader = (value: Value) => {
    let at = value;
    while (readers.get(at) === 1) {
      const found = matmuls.get(at);
      if (found) return found;
      if (!at.alias) return undefined;
      at = at.alias;
    }
    return undefined;
  };

  for (const step of steps) {
    if (step.kind === "kernel") {
      const { instruction } = step;
      if (instruction.op === "matmul") matmuls.set(instruction.outputs[0]!, { instruction, at: result.length, step });
      result.push(step);
      continue;
    }
    const only = step.node.instructions.length === 1 ? step.node.instructions[0]! : undefined;
    const fused = only?.opcode === opcodeAdd && fuseAdd(only.operands as [Value, Value], step.node.output);
    if (!fused) result.push(step);
  }
  return result.filter((step) => step !== null);

  function fuseAdd(operands: [Value, Value], output: Value): boolean {
    if (output.dtype !== "f32") return false;
    const candidates = ([0, 1] as const)
      .map((side) => ({ found: onlyReader(operands[side]), product: operands[side], addend: operands[1 - side]! }))
      .filter(({ found, product, addend }) => found && fits(product, addend, output, found.instruction))
      .sort((x, y) => y.found!.at - x.found!.at);
    const best = candidates[0];
    if (!best?.found) return false;
    const { instruction, at, step } = best.found;
    const product = instruction.outputs[0]!;
    const isBias = !sameShape(best.addend.shape, output.shape);
    const slot = isBias ? biasInput : residualInput;
    const shape = isBias ? best.addend.shape : product.shape;
    instruction.inputs[slot] = sameShape(best.addend.shape, shape)
      ? best.addend
      : program.temporary(shape, "f32", best.addend);
    // The product now waits for its addend: it moves to the place of the add.
    result[at] = null;
    result.push(step);
    output.alias = product;
    matmuls.delete(product);
    const next = { instruction, at: result.length - 1, step };
    matmuls.set(product, next);
    readers.set(product, 1);
    return true;
  }

  function fits(product: Value, addend: Value, output: Value, instruction: Instruction): boolean {
    if (addend.origin.kind === "fill" || addend.dtype !== "f32" || !sameShape(product.shape, output.shape))
      return false;
    if (instruction.inputs[residualInput]) return false;
    if (sameShape(addend.shape, output.shape)) return true;
    const isBias = addend.shape.length === 1 && elementCount(addend.shape) === lastSize(product.shape);
    return isBias && !instruction.inputs[biasInput];
  }
}
