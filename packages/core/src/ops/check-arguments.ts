import { InvalidUseError } from "../tensor/errors.js";
import { Tensor } from "../tensor/tensor.js";

const describe = (value: unknown): string => {
  if (value instanceof Tensor) return String(value);
  if (Array.isArray(value)) return "an array";
  if (typeof value !== "object" || value === null) return String(value);
  const name = value.constructor?.name ?? "Object";
  return name === "Object" ? "a plain object" : `a ${name}`;
};

/** For callers without types: what is no tensor is named before its properties are looked for. */
export function requireTensor(op: string, value: unknown): void {
  if (!(value instanceof Tensor))
    throw new InvalidUseError(`${op}: an operand must be a tensor, and is ${describe(value)}`);
}

/**
 * For callers without types, where an option that is overlooked changes the result.
 * @param known names of all options
 * @param example how it is written: "sum({ axes: -1 })"
 */
export function requireOptions(op: string, options: unknown, known: readonly string[], example: string): void {
  const plain =
    typeof options === "object" && options !== null && !Array.isArray(options) && !(options instanceof Tensor);
  const unknown = plain ? Object.keys(options).find((name) => !known.includes(name)) : describe(options);
  if (unknown === undefined) return;
  const what = plain ? `has no option "${unknown}"` : `takes options, not ${unknown}`;
  throw new InvalidUseError(`${op} ${what}; options are ${known.join(", ")}, as in ${example}`);
}
