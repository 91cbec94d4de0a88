import { ShapeError } from "./errors.js";

export type Shape = readonly number[];

/** The most dimensions that a tensor can have (TREFOIL_MAX_RANK). */
const maxRank = 6;

export function elementCount(shape: Shape): number {
  let count = 1;
  for (const size of shape) count *= size;
  return count;
}

export const sameShape = (a: Shape, b: Shape): boolean => a.length === b.length && a.every((size, i) => size === b[i]);

/** For callers without types. */
export function requireShape(op: string, shape: Shape): void {
  if (!Array.isArray(shape)) throw new ShapeError(op, `a shape is an array, such as [2, 3]; got ${String(shape)}`, []);
}

export function checkShape(op: string, shape: Shape): void {
  requireShape(op, shape);
  if (shape.length > maxRank) throw new ShapeError(op, `at most ${maxRank} dimensions are supported`, [shape]);
  for (const size of shape) {
    if (!Number.isSafeInteger(size) || size < 0) {
      throw new ShapeError(op, "dimensions must be whole numbers >= 0", [shape]);
    }
  }
}

/** NumPy broadcasting: trailing dimensions align, a 1 stretches. */
export function broadcastShapes(op: string, shapes: readonly Shape[]): number[] {
  const rank = Math.max(0, ...shapes.map((shape) => shape.length));
  const result = new Array<number>(rank).fill(1);
  for (const shape of shapes) {
    for (let i = 0; i < shape.length; i++) {
      const at = rank - shape.length + i;
      const size = shape[i]!;
      if (size === 1 || size === result[at]) continue;
      if (result[at] !== 1) throw new ShapeError(op, "shapes do not broadcast", shapes);
      result[at] = size;
    }
  }
  return result;
}

/** Axis counted from the end when negative; out of range is a ShapeError. */
export function resolveAxis(op: string, axis: number, shape: Shape): number {
  const resolved = axis < 0 ? axis + shape.length : axis;
  if (!Number.isInteger(axis) || resolved < 0 || resolved >= shape.length) {
    throw new ShapeError(op, `axis ${axis} is outside a tensor of ${shape.length} dimensions`, [shape]);
  }
  return resolved;
}

export const lastSize = (shape: Shape): number => shape[shape.length - 1] ?? 1;
