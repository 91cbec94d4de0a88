import type { ProgramBuilder, Value } from "./program.js";
import type { Step } from "./step.js";

/** How often each value is read: by steps, through aliases, and by name (returned or assigned). */
export function countReaders(
  steps: readonly Step[],
  program: ProgramBuilder,
  pinned: ReadonlySet<Value>,
): Map<Value, number> {
  const counts = new Map<Value, number>();
  const read = (value: Value | null): void => {
    if (value) counts.set(value, (counts.get(value) ?? 0) + 1);
  };
  for (const step of steps) {
    if (step.kind === "kernel") step.instruction.inputs.forEach(read);
    else for (const { operands } of step.node.instructions) operands.forEach(read);
  }
  for (const value of program.values) if (value.alias) read(value.alias);
  pinned.forEach(read);
  return counts;
}
