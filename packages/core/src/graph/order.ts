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
