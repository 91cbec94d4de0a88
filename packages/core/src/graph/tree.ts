import { InvalidUseError } from "../tensor/errors.js";
import { Tensor } from "../tensor/tensor.js";
import { numberText } from "./number-text.js";

/**
 * Rebuilds arrays and plain objects with every leaf replaced by `visit(leaf)`, in a fixed order. Tensors and primitives are
 * leaves; class instances and functions are refused, because a compiled function could not tell when they change.
 */
export function mapTree<T>(tree: T, visit: (leaf: unknown) => unknown, where: string): T {
  const walk = (node: unknown): unknown => {
    if (node instanceof Tensor || node === null || (typeof node !== "object" && typeof node !== "function"))
      return visit(node);
    if (Array.isArray(node)) return node.map(walk);
    requirePlain(node, where);
    return Object.fromEntries(Object.entries(node).map(([key, value]) => [key, walk(value)]));
  };
  return walk(tree) as T;
}

/**
 * What a program is compiled for: the structure of a tree with its property names in their order, dtypes and shapes of its tensors, and
 * its other leaves by value. Tensors are added to `tensors` in the order in which `mapTree` visits them.
 */
export function signatureOf(node: unknown, tensors: Tensor[], where: string): string {
  if (node instanceof Tensor) {
    tensors.push(node);
    return `${node.dtype}[${node.shape}]`;
  }
  if (typeof node === "string") return JSON.stringify(node);
  if (node === null || (typeof node !== "object" && typeof node !== "function"))
    return `${typeof node} ${typeof node === "number" ? numberText(node) : String(node)}`;
  let signature = "";
  if (Array.isArray(node)) {
    for (const child of node) signature += `${signatureOf(child, tensors, where)},`;
    return `(${signature})`;
  }
  requirePlain(node, where);
  for (const [name, child] of Object.entries(node))
    signature += `${JSON.stringify(name)}:${signatureOf(child, tensors, where)},`;
  return `{${signature}}`;
}

function requirePlain(node: object, where: string): void {
  const prototype: unknown = Object.getPrototypeOf(node);
  if (prototype === Object.prototype || prototype === null) return;
  throw new InvalidUseError(
    `${where} may hold tensors, plain objects, arrays and static values, not ${describe(node)}`,
  );
}

const describe = (value: object): string => (typeof value === "function" ? "functions" : `a ${value.constructor.name}`);
