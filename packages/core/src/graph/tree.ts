import { InvalidUseError } from "../tensor/errors.js";
import { Tensor } from "../tensor/tensor.js";

/**
 * Rebuilds arrays and plain objects with every leaf replaced by `visit(leaf)`, in a fixed order. Tensors and primitives are
 * leaves; class instances and functions are refused, because a compiled function could not tell when they change.
 */
export function mapTree<T>(tree: T, visit: (leaf: unknown) => unknown, where: string): T {
  const walk = (node: unknown): unknown => {
    if (node instanceof Tensor || node === null || (typeof node !== "object" && typeof node !== "function"))
      return visit(node);
    if (Array.isArray(node)) return node.map(walk);
    const prototype: unknown = Object.getPrototypeOf(node);
    if (prototype !== Object.prototype && prototype !== null) {
      throw new InvalidUseError(
        `${where} may hold tensors, plain objects, arrays and static values, not ${describe(node)}`,
      );
    }
    return Object.fromEntries(Object.entries(node).map(([key, value]) => [key, walk(value)]));
  };
  return walk(tree) as T;
}

const describe = (value: object): string => (typeof value === "function" ? "functions" : `a ${value.constructor.name}`);
