import { DtypeError, ShapeError } from "../tensor/errors.js";
import { checkShape, elementCount, requireShape, resolveAxis, type Shape, sameShape } from "../tensor/shape.js";
import { full, type OpNode, Parameter, type Tensor } from "../tensor/tensor.js";
import { requireOptions } from "./check-arguments.js";
import { apply, applyAll, defineOp, unchanged } from "./op.js";

const opReshape = defineOp({
  name: "reshape",
  kernel: "alias",
  operands: ["any"],
  gradient: ({ inputs, upstream }) => [reshape(upstream[0]!, inputs[0]!.shape)],
});

/** The same values in another shape; one dimension may be -1. Costs nothing. */
export function reshape(x: Tensor, shape: Shape): Tensor {
  requireShape("reshape", shape);
  const unknown = shape.indexOf(-1);
  const target = [...shape];
  if (unknown >= 0) {
    const known = elementCount(shape.filter((size) => size !== -1));
    if (shape.lastIndexOf(-1) !== unknown || known === 0 || x.size % known !== 0) {
      throw new ShapeError("reshape", "cannot infer the -1", [x.shape, shape]);
    }
    target[unknown] = x.size / known;
  }
  checkShape("reshape", target);
  if (elementCount(target) !== x.size) throw new ShapeError("reshape", "element counts differ", [x.shape, target]);
  if (sameShape(x.shape, target)) return unchanged(x);
  if (x.source.kind === "full") return full(target, x.source.value, x.dtype);
  // A reshape of a reshape is one reshape; a parameter may have another value by now.
  const inner = x.source.kind === "op" && x.source.node.op === opReshape ? x.source.node.inputs[0]! : x;
  const base = inner instanceof Parameter ? x : inner;
  if (sameShape(base.shape, target)) return base;
  return apply(opReshape, [base], { shape: target, dtype: x.dtype });
}

const opTranspose = defineOp({
  name: "transpose",
  kernel: "transpose",
  operands: ["any"],
  gradient: ({ attributes, upstream }) => {
    const inverse = new Array<number>(attributes.length);
    attributes.forEach((from, to) => {
      inverse[from] = to;
    });
    return [transpose(upstream[0]!, inverse)];
  },
});

/** Axes in another order: `result.shape[i] = x.shape[permutation[i]]`. Default: the last two swapped. */
export function transpose(x: Tensor, permutation?: readonly number[]): Tensor {
  if (permutation !== undefined && !Array.isArray(permutation))
    throw new ShapeError("transpose", "the order of all axes is an array, such as [0, 2, 1]", [x.shape]);
  const identity = x.shape.map((_, axis) => axis);
  const order = permutation ? [...permutation] : [...identity.slice(0, -2), x.rank - 1, x.rank - 2];
  if (order.length !== x.rank || ![...order].sort((a, b) => a - b).every((axis, i) => axis === i)) {
    throw new ShapeError("transpose", `[${order.join(", ")}] is not a permutation of the axes`, [x.shape]);
  }
  if (order.every((axis, i) => axis === i)) return unchanged(x);
  return apply(opTranspose, [x], { shape: order.map((axis) => x.shape[axis]!), dtype: x.dtype }, order);
}

export interface AxisOptions {
  /** The axis, a negative one counted from the end. Default: the last. */
  axis?: number;
}

export function axisOf(op: string, options: AxisOptions): number {
  requireOptions(op, options, ["axis"], `${op}(x, { axis: 1 })`);
  return options.axis ?? -1;
}

/** `x` with an axis moved behind the others. */
export function axisToLast(op: string, x: Tensor, axis: number): Tensor {
  if (axis === -1) return x;
  const at = resolveAxis(op, axis, x.shape);
  const axes = x.shape.map((_, i) => i);
  return transpose(x, [...axes.filter((i) => i !== at), at]);
}

const opConcat = defineOp({
  name: "concat",
  kernel: "concat",
  operands: ["any"],
  gradient: ({ inputs, attributes, upstream }) => {
    const axis = attributes[0]!;
    let start = 0;
    return inputs.map((input) => {
      const length = input!.shape[axis]!;
      start += length;
      return slice(upstream[0]!, axis, start - length, start);
    });
  },
});

/** Tensors joined along an axis; the other dimensions and the dtypes must be equal. */
export function concat(tensors: readonly Tensor[], axis = 0): Tensor {
  const first = tensors[0];
  if (!first) throw new ShapeError("concat", "needs at least one tensor", []);
  const at = resolveAxis("concat", axis, first.shape);
  for (const tensor of tensors) {
    if (tensor.rank !== first.rank || tensor.shape.some((size, i) => i !== at && size !== first.shape[i])) {
      throw new ShapeError(
        "concat",
        `shapes differ outside axis ${at}`,
        tensors.map((each) => each.shape),
      );
    }
    if (tensor.dtype !== first.dtype) {
      throw new DtypeError(
        "concat",
        "dtypes differ; cast them first",
        tensors.map((each) => each.dtype),
      );
    }
  }
  if (tensors.length === 1) return unchanged(first);
  const shape = [...first.shape];
  shape[at] = tensors.reduce((total, tensor) => total + tensor.shape[at]!, 0);
  return apply(opConcat, tensors, { shape, dtype: first.dtype }, [at]);
}

/** Tensors of one shape joined along a new axis. */
export function stack(tensors: readonly Tensor[], axis = 0): Tensor {
  return concat(
    tensors.map((tensor) => {
      const at = axis < 0 ? axis + tensor.rank + 1 : axis;
      return reshape(tensor, [...tensor.shape.slice(0, at), 1, ...tensor.shape.slice(at)]);
    }),
    axis,
  );
}

const opSlice = defineOp({
  name: "slice",
  kernel: "slice",
  operands: ["any"],
  gradient: ({ inputs, attributes, upstream }) => {
    const [axis, start] = attributes as [number, number];
    return [pad(upstream[0]!, axis, start, inputs[0]!.shape[axis]!)];
  },
});

/** Positions [start, end) along an axis; negative ones count from the end. */
export function slice(x: Tensor, axis: number, start: number, end?: number): Tensor {
  const at = resolveAxis("slice", axis, x.shape);
  const size = x.shape[at]!;
  const from = start < 0 ? start + size : start;
  const to = end === undefined ? size : end < 0 ? end + size : end;
  if (!(Number.isInteger(from) && from >= 0 && from <= to && to <= size)) {
    throw new ShapeError("slice", `[${start}, ${end ?? size}) is outside axis ${at}`, [x.shape]);
  }
  if (from === 0 && to === size) return unchanged(x);
  const shape = [...x.shape];
  shape[at] = to - from;
  return apply(opSlice, [x], { shape, dtype: x.dtype }, [at, from]);
}

// Inputs: the pieces, which are its outputs, and what they are pieces of, which gets their gradients in one go.
const opSplit = defineOp({
  name: "split",
  kernel: "alias",
  operands: ["any"],
  gradient: ({ outputs, attributes, upstream }) => {
    const pieces = outputs.map(({ shape, dtype }, i) => upstream[i] ?? full(shape, 0, dtype));
    return [...outputs.map(() => null), concat(pieces, attributes[0])];
  },
});

/**
 * Pieces of the given sizes along an axis, by default the last; together they must be all of it. Undoes `concat`. Where all pieces are
 * read, their gradients cost one `concat`; those of `slice` cost as many tensors of the whole size.
 */
export function split(x: Tensor, sizes: readonly number[], axis = -1): Tensor[] {
  const at = resolveAxis("split", axis, x.shape);
  if (sizes.reduce((total, size) => total + size, 0) !== x.shape[at])
    throw new ShapeError("split", `sizes ${sizes.join(" + ")} do not add up to axis ${at}`, [x.shape]);
  let end = 0;
  const pieces = sizes.map((size) => {
    end += size;
    return slice(x, at, end - size, end);
  });
  return applyAll(opSplit, [...pieces, x], pieces, [at]);
}

const opPad = defineOp({
  name: "pad",
  kernel: "pad",
  operands: ["any"],
  gradient: ({ inputs, attributes, upstream }) => {
    const [axis, start] = attributes as [number, number];
    return [slice(upstream[0]!, axis, start, start + inputs[0]!.shape[axis]!)];
  },
});

/** Zeros around `x` along an axis: the result has `size` positions and `x` begins at `start`. */
export function pad(x: Tensor, axis: number, start: number, size: number): Tensor {
  const at = resolveAxis("pad", axis, x.shape);
  if (!(Number.isInteger(start) && start >= 0 && start + x.shape[at]! <= size)) {
    throw new ShapeError("pad", `${x.shape[at]} positions at ${start} do not fit in ${size}`, [x.shape]);
  }
  if (x.shape[at] === size) return unchanged(x);
  const shape = [...x.shape];
  shape[at] = size;
  return apply(opPad, [x], { shape, dtype: x.dtype }, [at, start]);
}

// A copy with storage of its own: lowering inserts it where an old value must outlive an update.
defineOp({ name: "copy", kernel: "copy", operands: ["any"], gradient: ({ upstream }) => [upstream[0]!] });

const opUpdateRows = defineOp({
  name: "update_rows_",
  kernel: "update_rows_",
  operands: ["any", "any", "i32"],
  inPlace: (_node: OpNode) => [[0, 0]],
});

/**
 * `cache` with `cache[b, position[b] + s] = rows[b, s]`: a KV-cache write, in place where `cache` is a parameter that the
 * result is assigned to.
 * @param cache [batch, positions, ...]
 * @param rows [batch, steps, ...]
 * @param position i32 [batch]: where the first row of each sequence goes
 */
export function updateRows(cache: Tensor, rows: Tensor, position: Tensor): Tensor {
  const fits =
    cache.rank >= 2 &&
    rows.rank === cache.rank &&
    rows.shape[0] === cache.shape[0] &&
    rows.shape[1]! <= cache.shape[1]! &&
    sameShape(rows.shape.slice(2), cache.shape.slice(2)) &&
    sameShape(position.shape, [cache.shape[0]!]);
  if (!fits) throw new ShapeError("updateRows", "rows do not fit the cache", [cache.shape, rows.shape, position.shape]);
  if (position.dtype !== "i32") throw new DtypeError("updateRows", "position must be i32", [position.dtype]);
  return apply(opUpdateRows, [cache, rows, position], { shape: cache.shape, dtype: cache.dtype });
}
