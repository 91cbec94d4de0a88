import { InvalidUseError } from "../tensor/errors.js";
import type { OpNode, Tensor } from "../tensor/tensor.js";

/**
 * Nodes that `roots` need, each after everything it needs. Iterative: graphs are deeper than the call stack.
 * @param given nodes that are there already: neither they nor what they need is listed
 */
export function topologicalOrder(roots: Iterable<Tensor>, given: Iterable<OpNode> = []): OpNode[] {
  const order: OpNode[] = [];
  const seen = new Set<OpNode>(given);
  for (const root of roots) {
    if (root.source.kind !== "op" || seen.has(root.source.node)) continue;
    const stack: { node: OpNode; next: number }[] = [{ node: root.source.node, next: 0 }];
    seen.add(root.source.node);
    while (stack.length > 0) {
      const top = stack[stack.length - 1]!;
      if (top.next === top.node.inputs.length) {
        order.push(top.node);
        stack.pop();
        continue;
      }
      const input = top.node.inputs[top.next++];
      if (input?.source.kind === "op" && !seen.has(input.source.node)) {
        seen.add(input.source.node);
        stack.push({ node: input.source.node, next: 0 });
      }
    }
  }
  return order;
}

/** Outside of a trace: that the parameters of `nodes` still are what they were when these were built. @throws InvalidUseError */
export function requireUnchanged(nodes: readonly OpNode[]): void {
  const changed = nodes.some(({ versions }) => versions?.some(([parameter, version]) => parameter.version !== version));
  if (!changed) return;
  throw new InvalidUseError(
    "a parameter that this tensor reads was changed after the tensor was built, and its value from before is gone: read tensors first, " +
      "or build them again. A training step belongs into compile, where updates take effect in the order of the program text",
  );
}
