import type { ProgramSpec, ProgramValue } from "@trefoil/native";
import type { Storage } from "../device/index.js";
import { type Dtype, dtypeCode, type HostArray } from "../tensor/dtype.js";
import { elementCount, type Shape } from "../tensor/shape.js";
import type { Parameter } from "../tensor/tensor.js";

/** A value of a program being lowered. */
export interface Value {
  readonly id: number;
  readonly shape: Shape;
  /** Values between kernels may become bf16 while a program is lowered. */
  dtype: Dtype;
  readonly origin:
    | { readonly kind: "input"; readonly index: number }
    | { readonly kind: "state"; readonly parameter: Parameter }
    | { readonly kind: "held"; readonly storage: Storage }
    | { readonly kind: "constant"; readonly data: HostArray }
    | { readonly kind: "fill"; readonly value: number }
    | { readonly kind: "temporary" };
  /** The value whose storage this one shares. */
  alias?: Value;
}

export interface Instruction {
  op: string;
  inputs: (Value | null)[];
  outputs: (Value | null)[];
  attributes: readonly number[];
}

/** Values and instructions in order: what the native runtime gets, and what a person can read. */
export class ProgramBuilder {
  readonly values: Value[] = [];
  instructions: Instruction[] = [];
  outputs: Value[] = [];
  /** Weights of which the program reads, and writes, bf16 copies (copied-weights.ts). */
  copiedWeights: readonly Parameter[] = [];

  value(shape: Shape, dtype: Dtype, origin: Value["origin"], alias?: Value): Value {
    const value: Value = { id: this.values.length, shape, dtype, origin };
    if (alias) value.alias = alias;
    this.values.push(value);
    return value;
  }

  temporary(shape: Shape, dtype: Dtype, alias?: Value): Value {
    return this.value(shape, dtype, { kind: "temporary" }, alias);
  }

  /** The runtime's form. `bufferOf` gives the device buffer of a parameter. */
  spec(bufferOf: (parameter: Parameter) => number): ProgramSpec {
    const used = new Set<Value>();
    const use = (value: Value | null): void => {
      for (let at = value; at && !used.has(at); at = at.alias ?? null) used.add(at);
    };
    for (const { inputs, outputs } of this.instructions) for (const value of [...inputs, ...outputs]) use(value);
    for (const value of this.values) if (value.origin.kind === "input") use(value);
    this.outputs.forEach(use);
    const kept = this.values.filter((value) => used.has(value));
    const numbers = new Map(kept.map((value, number) => [value, number]));
    const number = (value: Value | null): number => (value ? numbers.get(value)! : -1);
    const values = kept.map((value): ProgramValue => {
      const base = { dtype: dtypeCode(value.dtype), shape: [...value.shape] };
      const alias = value.alias ? { alias: number(value.alias) } : {};
      const { origin } = value;
      if (origin.kind === "input") return { ...base, kind: "input", index: origin.index };
      if (origin.kind === "state") return { ...base, kind: "state", buffer: bufferOf(origin.parameter) };
      if (origin.kind === "held") return { ...base, kind: "state", buffer: origin.storage.handle };
      if (origin.kind === "constant") return { ...base, kind: "constant", data: origin.data };
      return { ...base, ...alias, kind: "temporary" };
    });
    const instructions = this.instructions.map(({ op, inputs, outputs, attributes }) => ({
      op,
      inputs: inputs.map(number),
      outputs: outputs.map(number),
      attributes: [...attributes],
    }));
    return { values, instructions, outputs: this.outputs.map(number) };
  }
}

/** The storage that a value finally lives in. */
export function rootOf(value: Value): Value {
  let root = value;
  while (root.alias) root = root.alias;
  return root;
}

const typeText = (value: Value): string => `${value.dtype}[${value.shape.join(",")}]`;

type NameOf = (parameter: Parameter) => string | undefined;

function nameValue(value: Value | null, nameOf: NameOf): string {
  if (!value) return "_";
  const { origin } = value;
  if (origin.kind === "input") return `input${origin.index}`;
  if (origin.kind === "state") return nameOf(origin.parameter) ?? `state${value.id}:${typeText(value)}`;
  if (origin.kind === "held") return `result${value.id}:${typeText(value)}`;
  if (origin.kind === "constant") {
    return elementCount(value.shape) === 1 ? String(origin.data[0]) : `constant${value.id}:${typeText(value)}`;
  }
  return `%${value.id}`;
}

/** `%12:f32[64,256] = matmul(%3, w1) {0,1,1,0}`; a result that overwrites its operand as `%13=w1`. */
export function printInstruction(
  { op, inputs, outputs, attributes }: Instruction,
  nameOf: NameOf = () => undefined,
): string {
  const results = outputs.map((value) => {
    const name = nameValue(value, nameOf);
    if (!value) return name;
    return value.alias ? `${name}=${nameValue(value.alias, nameOf)}` : `${name}:${typeText(value)}`;
  });
  const text = attributes.length > 0 ? ` {${attributes.join(",")}}` : "";
  return `${results.join(", ")} = ${op}(${inputs.map((value) => nameValue(value, nameOf)).join(", ")})${text}`;
}

/** One line per instruction, reshapes as `%13:f32[8,8,256] = %12`. */
export function printProgram(program: ProgramBuilder, nameOf: NameOf = () => undefined): string {
  const lines: string[] = [];
  const printed = new Set<Value>();
  const printAlias = (value: Value | null): void => {
    if (!value?.alias || printed.has(value)) return;
    printed.add(value);
    printAlias(value.alias);
    lines.push(`${nameValue(value, nameOf)}:${typeText(value)} = ${nameValue(value.alias, nameOf)}`);
  };
  for (const instruction of program.instructions) {
    instruction.inputs.forEach(printAlias);
    for (const value of instruction.outputs) if (value) printed.add(value);
    lines.push(printInstruction(instruction, nameOf));
  }
  program.outputs.forEach(printAlias);
  lines.push(`return ${program.outputs.map((value) => nameValue(value, nameOf)).join(", ")}`);
  return lines.join("\n");
}
