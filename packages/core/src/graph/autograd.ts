import { add } from "../ops/elementwise.js";
import { opOf } from "../ops/op.js";
import { reduceTo } from "../ops/reduce-to.js";
import { GradientError, ShapeError } from "../tensor/errors.js";
import { full, type OpNode, Tensor } from "../tensor/tensor.js";
import { evaluatedTensors } from "./evaluated.js";
import { requireUnchanged, topologicalOrder } from "./order.js";
import { asRecorded, currentTrace } from "./trace.js";

/**
 * Gradients of a scalar with respect to `targets`, as tensors of the same graph: reverse-mode differentiation as a pass over
 * ops. A target that does not reach `loss` gets zeros. Of a parameter that the program has assigned it is the value that the loss reads,
 * the latest where it reads several; how that was made from values before is not differentiated.
 * @throws GradientError where an op on the path has no gradient, no target reaches the loss, or one does not because the path was cut
 */
export function gradients(loss: Tensor, targets: readonly Tensor[]): Tensor[] {
  if (loss.size !== 1)
    throw new ShapeError("gradients", "the loss must be a scalar; reduce it with sum or mean", [loss.shape]);
  const order = topologicalOrder([loss]);
  if (!currentTrace()) requireUnchanged(order);
  const read = new Set([keyOf(loss)]);
  for (const { inputs } of order) for (const input of inputs) if (input) read.add(keyOf(input));
  const reached = targets.map((target) => {
    const values = currentTrace()?.valuesOf(target) ?? [target];
    return values.find((value) => read.has(keyOf(value)));
  });
  requireReached(reached, read);
  const values = targets.map((target, i) => reached[i] ?? target);
  const assigned = values.flatMap((value, i) =>
    value !== targets[i] && value.source.kind === "op" ? [value.source.node] : [],
  );
  const found = pullBack([{ output: loss, gradient: full(loss.shape, 1) }], values, assigned);
  return targets.map((target, i) => found[i] ?? full(target.shape, 0));
}

function requireReached(reached: readonly (Tensor | undefined)[], read: ReadonlySet<Tensor | OpNode>): void {
  const missing = reached.filter((value) => value === undefined).length;
  if (missing === 0) return;
  const what =
    missing === reached.length ? "the loss depends on none of the targets" : "a target does not reach the loss";
  // In a trace nothing can be read, and what was read before it is meant as a constant.
  if (!currentTrace() && [...read].some((value) => value instanceof Tensor && evaluatedTensors.has(value))) {
    throw new GradientError(
      "gradients",
      `${what}, which is made from a tensor that has been read (await x.data()): that is a constant from then on. Take gradients first`,
    );
  }
  if (missing === reached.length)
    throw new GradientError("gradients", `${what}: are these the parameters that made it?`);
}

/** An op's output is a new object at each use. */
const keyOf = (tensor: Tensor): Tensor | OpNode => (tensor.source.kind === "op" ? tensor.source.node : tensor);

/**
 * The vector-Jacobian product: what the gradients of some outputs are for `targets`; null for a target that reaches none of them.
 * @param given nodes that are taken as they are: differentiation goes up to them and not through them
 * @throws GradientError where an op on the path has no gradient
 */
export function pullBack(
  from: readonly { output: Tensor; gradient: Tensor }[],
  targets: readonly Tensor[],
  given: readonly OpNode[] = [],
): (Tensor | null)[] {
  const order = topologicalOrder(
    from.map(({ output }) => output),
    given,
  );
  const wanted = new Set<Tensor | OpNode>(targets.map(keyOf));

  // Which nodes lie on a path from a target.
  const active = new Set<OpNode>(given);
  const isActive = (tensor: Tensor | null): boolean =>
    tensor !== null && (tensor.source.kind === "op" ? active.has(tensor.source.node) : wanted.has(tensor));
  for (const node of order) {
    if (wanted.has(node) || node.inputs.some(isActive)) active.add(node);
  }

  const ofLeaf = new Map<Tensor, Tensor>();
  const ofNode = new Map<OpNode, (Tensor | null)[]>();
  const accumulate = (tensor: Tensor, gradient: Tensor): void => {
    if (tensor.source.kind === "op") {
      const { node, output } = tensor.source;
      const slots = ofNode.get(node) ?? node.outputs.map(() => null);
      const before = slots[output];
      slots[output] = before ? add(before, gradient) : gradient;
      ofNode.set(node, slots);
    } else {
      const before = ofLeaf.get(tensor);
      ofLeaf.set(tensor, before ? add(before, gradient) : gradient);
    }
  };
  for (const { output, gradient } of from) accumulate(output, gradient);

  for (let i = order.length - 1; i >= 0; i--) {
    const node = order[i]!;
    const upstream = ofNode.get(node);
    if (!active.has(node) || !upstream) continue;
    const needs = node.inputs.map(isActive);
    if (!needs.some(Boolean)) continue;
    const op = opOf(node);
    if (op.gradient === "zero") continue;
    if (!op.gradient) throw new GradientError(op.name, "this op has no gradient; do not differentiate through it");
    const outputs = node.outputs.map(
      (type, output) => new Tensor(type.shape, type.dtype, { kind: "op", node, output }),
    );
    const { gradient } = op;
    const results = asRecorded(() =>
      gradient({ inputs: node.inputs, outputs, attributes: node.attributes, upstream, needs }),
    );
    node.inputs.forEach((input, at) => {
      const gradient = results[at];
      if (input && needs[at] && gradient) accumulate(input, op.broadcasts ? reduceTo(gradient, input.shape) : gradient);
    });
  }

  return targets.map(({ source }, i) => {
    const found = source.kind === "op" ? ofNode.get(source.node)?.[source.output] : ofLeaf.get(targets[i]!);
    return found ?? null;
  });
}

/**
 * The loss that `fn` builds and its gradients with respect to `targets`. Use inside `compile`.
 * `fn` returns the scalar loss, or an object with `loss` and anything else that should come back as `value`.
 */
export function valueAndGrad<V extends Tensor | { loss: Tensor }>(
  fn: () => V,
  targets: readonly Tensor[],
): { value: V; grads: Tensor[] } {
  const value = fn();
  return { value, grads: gradients(value instanceof Tensor ? value : value.loss, targets) };
}
