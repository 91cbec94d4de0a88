import { checkDtype } from "../tensor/dtype.js";
import { DtypeError, ShapeError } from "../tensor/errors.js";
import { elementCount, lastSize, sameShape } from "../tensor/shape.js";
import type { Tensor } from "../tensor/tensor.js";
import { reshape } from "./movement.js";
import { apply, defineOp } from "./op.js";

function requireIndex(op: string, index: Tensor): void {
  if (index.dtype !== "i32") throw new DtypeError(op, "the index must be i32", [index.dtype]);
}

const opGatherRows = defineOp({
  name: "gather_rows",
  kernel: "gather_rows",
  operands: ["float", "i32"],
  gradient: ({ inputs, upstream }) => [scatterAddRows(upstream[0]!, inputs[1]!, inputs[0]!.shape[0]!), null],
});

/**
 * Rows of a table: an embedding look-up. Index -1 gives zeros; others outside [0, V) fail when the program runs.
 * @param table [V, D]
 * @param index i32 [...]
 * @returns f32 [..., D]
 */
export function gatherRows(table: Tensor, index: Tensor): Tensor {
  requireIndex("gatherRows", index);
  if (table.rank !== 2) throw new ShapeError("gatherRows", "the table must have two dimensions", [table.shape]);
  return apply(opGatherRows, [table, index], { shape: [...index.shape, table.shape[1]!], dtype: "f32" });
}

const opScatterAddRows = defineOp({
  name: "scatter_add_rows",
  kernel: "scatter_add_rows",
  operands: ["f32", "i32"],
  gradient: ({ inputs, upstream }) => [reshape(gatherRows(upstream[0]!, inputs[1]!), inputs[0]!.shape), null],
});

/**
 * Zeros of `[size, D]` with every row added at its index, in order. Index -1 is skipped.
 * @param rows [..., D]
 * @param index i32 [...]
 */
export function scatterAddRows(rows: Tensor, index: Tensor, size: number): Tensor {
  requireIndex("scatterAddRows", index);
  if (!sameShape(rows.shape.slice(0, -1), index.shape)) {
    throw new ShapeError("scatterAddRows", "one index per row is needed", [rows.shape, index.shape]);
  }
  const width = lastSize(rows.shape);
  const count = elementCount(index.shape);
  return apply(opScatterAddRows, [reshape(rows, [count, width]), reshape(index, [count])], {
    shape: [size, width],
    dtype: "f32",
  });
}

const opGatherLast = defineOp({
  name: "gather_last",
  kernel: "gather_last",
  operands: ["f32", "i32"],
  gradient: ({ inputs, upstream }) => [scatterLast(upstream[0]!, inputs[1]!, lastSize(inputs[0]!.shape)), null],
});

/** `[.., V]` and i32 `[.., K]` to `[.., K]`: the values at the indices of each row. -1 gives 0. */
export function gatherLast(x: Tensor, index: Tensor): Tensor {
  requireIndex("gatherLast", index);
  if (!sameShape(x.shape.slice(0, -1), index.shape.slice(0, -1))) {
    throw new ShapeError("gatherLast", "leading dimensions differ", [x.shape, index.shape]);
  }
  return apply(opGatherLast, [x, index], { shape: index.shape, dtype: "f32" });
}

const opScatterLast = defineOp({
  name: "scatter_last",
  kernel: "scatter_last",
  operands: ["f32", "i32"],
  gradient: ({ inputs, upstream }) => [gatherLast(upstream[0]!, inputs[1]!), null],
});

/** `[.., K]` values at i32 `[.., K]` to `[.., size]`, zero elsewhere, repeats added. -1 is skipped. */
export function scatterLast(values: Tensor, index: Tensor, size: number): Tensor {
  requireIndex("scatterLast", index);
  if (!sameShape(values.shape, index.shape)) {
    throw new ShapeError("scatterLast", "one index per value is needed", [values.shape, index.shape]);
  }
  return apply(opScatterLast, [values, index], { shape: [...values.shape.slice(0, -1), size], dtype: "f32" });
}

const opIota = defineOp({ name: "iota", kernel: "iota", gradient: "zero" });

/** 0, 1, …, n - 1. */
export function iota(n: number, dtype: "i32" | "f32" = "i32"): Tensor {
  checkDtype("iota", dtype);
  return apply(opIota, [], { shape: [n], dtype });
}
