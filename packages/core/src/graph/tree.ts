import { UsageError } from "../tensor/errors.js";
import { Tensor } from "../tensor/tensor.js";

/** Tensors inside arrays and plain objects; other values are static: part of the signature, not of the data. */
export type Tree = Tensor | number | string | boolean | null | undefined | readonly Tree[] | { readonly [key: string]: Tree };

/** Calls `visit` on every leaf, in a fixed order, and rebuilds the tree from what it returns. */
export function mapTree<T extends Tree>(tree: T, visit: (leaf: Exclude<Tree, object> | Tensor) => Tree, where: string): T {
  const walk = (node: Tree): Tree => {
    if (node instanceof Tensor || node === null || typeof node !== "object") return visit(node as Exclude<Tree, object> | Tensor);
    if (Array.isArray(node)) return node.map(walk);
    const prototype = Object.getPrototypeOf(node);
    if (prototype !== Object.prototype && prototype !== null) {
      throw new UsageError(`${where} may hold tensors, plain objects, arrays and static values, not ${prototype?.constructor?.name}`);
    }
    return Object.fromEntries(Object.entries(node as { [key: string]: Tree }).map(([key, value]) => [key, walk(value)]));
  };
  return walk(tree) as T;
}
