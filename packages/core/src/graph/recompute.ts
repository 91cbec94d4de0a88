import { applyAll, defineOp, type GradientRequest, opOf } from "../ops/op.js";
import { GradientError } from "../tensor/errors.js";
import { type OpNode, Tensor } from "../tensor/tensor.js";
import { pullBack } from "./autograd.js";
import { topologicalOrder } from "./order.js";
import { currentTrace } from "./trace.js";
import { mapTree } from "./tree.js";

/** The first input, not before the others are computed. Costs nothing: it only orders the schedule. */
const opAfter = defineOp({ name: "after", kernel: "alias", operands: ["any"] });

const after = (x: Tensor, others: readonly Tensor[]): Tensor =>
  applyAll(opAfter, [x, ...others], [{ shape: x.shape, dtype: x.dtype }])[0]!;

/**
 * Marks the outputs of a recomputed block. Inputs: the block's outputs, its arguments, and what else it reads; attributes: how many of
 * the first two. Its values are the block's own, its gradient is that of a copy of the block.
 */
const opRecompute = defineOp({ name: "recompute", kernel: "alias", operands: ["any"], gradient: gradientOfCopy });

/**
 * Calls `block(...inputs)` so that differentiation keeps the inputs alone and computes the rest of the block again when its gradient is
 * wanted: activation memory of one block at a time, for one more forward pass (Chen et al. 2016, arXiv 1604.06174). Values and gradients
 * are those of the plain call, bit for bit; random ops draw the same numbers again. Use inside `compile`.
 * @throws GradientError when the block updates something in place
 */
export function recompute<A extends readonly Tensor[], R>(block: (...inputs: A) => R, ...given: A): R {
  const trace = currentTrace();
  const inputs = given.map((input) => trace?.valueOf(input) ?? input) as unknown as A;
  const result = block(...inputs);
  const results: Tensor[] = [];
  const collect = (leaf: unknown) => {
    if (leaf instanceof Tensor) results.push(leaf);
    return leaf;
  };
  mapTree(result, collect, "the result of a recomputed block");
  const keysOfInputs = new Set(inputs.map(keyOf));
  const own = new Set<unknown>(dependents(results, keysOfInputs));
  const isOwn = ({ source }: Tensor) => source.kind === "op" && own.has(source.node);
  const outputs = results.filter(isOwn);
  if (outputs.length === 0) return result;

  const others = new Map<unknown, Tensor>();
  for (const node of own as Set<OpNode>) {
    if (opOf(node).inPlace)
      throw new GradientError(
        opOf(node).name,
        "it updates a tensor in place: a block with it cannot be computed again",
      );
    for (const input of node.inputs) {
      if (input?.dtype === "f32" && !isOwn(input) && !keysOfInputs.has(keyOf(input))) others.set(keyOf(input), input);
    }
  }
  const marked = applyAll(
    opRecompute,
    [...outputs, ...inputs, ...others.values()],
    outputs.map(({ shape, dtype }) => ({ shape, dtype })),
    [outputs.length, inputs.length],
  );
  let at = 0;
  const mark = (leaf: unknown) => (leaf instanceof Tensor && isOwn(leaf) ? marked[at++]! : leaf);
  return mapTree(result, mark, "the result of a recomputed block");
}

const keys = new WeakMap<OpNode, object[]>();

/** Equal for equal values: an op's output is a new object at each use. */
function keyOf(tensor: Tensor): object {
  const { source } = tensor;
  if (source.kind !== "op") return tensor;
  const known = keys.get(source.node) ?? source.node.outputs.map(() => ({}));
  keys.set(source.node, known);
  return known[source.output]!;
}

/** Nodes on the way from the values `given` to `results`, in topological order. */
function dependents(results: readonly Tensor[], given: ReadonlySet<object>): OpNode[] {
  const found = new Set<OpNode>();
  const reached = (input: Tensor | null) =>
    input !== null && (given.has(keyOf(input)) || (input.source.kind === "op" && found.has(input.source.node)));
  const makes = (node: OpNode) => keys.get(node)?.some((key) => given.has(key)) === true;
  for (const node of topologicalOrder(results)) if (!makes(node) && node.inputs.some(reached)) found.add(node);
  return [...found];
}

function gradientOfCopy({ inputs, attributes, upstream, needs }: GradientRequest): (Tensor | null)[] {
  const [outputCount, argumentCount] = attributes as [number, number];
  const outputs = inputs.slice(0, outputCount) as Tensor[];
  const given = inputs.slice(outputCount, outputCount + argumentCount) as Tensor[];
  const others = inputs.slice(outputCount + argumentCount) as Tensor[];
  const arrived = upstream.filter((gradient) => gradient !== null);
  // The copy waits for the gradient of what follows: by then the block's first values are gone.
  const fresh = given.map((input) => after(input, arrived));
  const copies = copyOf(outputs, given, fresh);
  const wanted = [...fresh, ...others].map((tensor, i) => (needs[outputCount + i] ? tensor : null));
  const targets = wanted.filter((tensor) => tensor !== null);
  const found = pullBack(
    copies.flatMap((output, i) => (upstream[i] ? [{ output, gradient: upstream[i] }] : [])),
    targets,
    [...fresh, ...others].flatMap(({ source }) => (source.kind === "op" ? [source.node] : [])),
  );
  const gradients = wanted.map((tensor) => tensor && (found[targets.indexOf(tensor)] ?? null));
  // The block in front is computed again after this one's parameters have their gradients: one copy at a time is alive.
  const ofOthers = gradients.slice(argumentCount).filter((gradient) => gradient !== null);
  const ordered = gradients.map(
    (gradient, i) => gradient && (i < argumentCount ? after(gradient, ofOthers) : gradient),
  );
  return [...outputs.map(() => null), ...ordered];
}

/** `outputs` with `given` replaced by `fresh`; what does not depend on them is shared. */
function copyOf(outputs: readonly Tensor[], given: readonly Tensor[], fresh: readonly Tensor[]): Tensor[] {
  const replacement = new Map(given.map((tensor, i) => [keyOf(tensor), fresh[i]!]));
  const copied = new Map<OpNode, OpNode>();
  const copy = (tensor: Tensor): Tensor => {
    const replaced = replacement.get(keyOf(tensor));
    if (replaced) return replaced;
    const { source } = tensor;
    const node = source.kind === "op" ? copied.get(source.node) : undefined;
    if (!node || source.kind !== "op") return tensor;
    return new Tensor(tensor.shape, tensor.dtype, { kind: "op", node, output: source.output });
  };
  for (const node of dependents(outputs, new Set(replacement.keys())))
    copied.set(node, { ...node, inputs: node.inputs.map((input) => input && copy(input)) });
  return outputs.map(copy);
}
