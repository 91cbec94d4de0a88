import { type ProgramBuilder, rootOf, type Value } from "./program.js";

/** Drops instructions whose results nobody reads, and marks single outputs that nobody reads. */
export function eliminateDeadCode(program: ProgramBuilder): void {
  const live = new Set<Value>();
  const markLive = (value: Value | null): void => {
    for (let at = value; at && !live.has(at); at = at.alias ?? null) live.add(at);
  };
  program.outputs.forEach(markLive);
  const kept = [];
  for (let i = program.instructions.length - 1; i >= 0; i--) {
    const instruction = program.instructions[i]!;
    const writesState = instruction.outputs.some((value) => value && rootOf(value).origin.kind === "state");
    if (!writesState && !instruction.outputs.some((value) => value && live.has(value))) continue;
    // In-place results keep their place: the kernel needs the pointer.
    instruction.outputs = instruction.outputs.map((value) =>
      value && (live.has(value) || value.alias) ? value : null,
    );
    instruction.inputs.forEach(markLive);
    for (const value of instruction.outputs) markLive(value?.alias ?? null);
    kept.push(instruction);
  }
  program.instructions = kept.reverse();
}
