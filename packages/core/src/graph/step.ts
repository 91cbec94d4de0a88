import type { Instruction, Value } from "./program.js";

interface ElementwiseInstruction {
  opcode: number;
  operands: Value[];
  immediate: number;
  result: Value;
}

/** A chain of elementwise instructions of which only the last result leaves. */
export interface ElementwiseNode {
  output: Value;
  instructions: ElementwiseInstruction[];
  /** The output once more, as bf16. */
  rounded?: Value;
}

/** An instruction before elementwise ops are put into kernels. */
export type Step =
  | { kind: "kernel"; instruction: Instruction; inPlace: readonly (readonly [number, number])[] }
  | { kind: "elementwise"; node: ElementwiseNode };
