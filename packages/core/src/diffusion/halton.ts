import { InvalidUseError } from "../tensor/errors.js";

/** Digits of `index` in `base` mirrored at the point, as a fraction of whole numbers: exact, unlike their sum in floats. */
function radicalInverse(index: number, base: number): { numerator: number; denominator: number } {
  let [numerator, denominator] = [0, 1];
  for (let rest = index; rest > 0; rest = Math.floor(rest / base)) {
    numerator = numerator * base + (rest % base);
    denominator *= base;
  }
  return { numerator, denominator };
}

/** Cell of point `index` (from 1 on) of the Halton sequence: base 2 down the rows, base 3 along the columns. */
export function haltonCell(index: number, rows: number, columns: number): [row: number, column: number] {
  const [down, along] = [radicalInverse(index, 2), radicalInverse(index, 3)];
  return [
    Math.floor((rows * down.numerator) / down.denominator),
    Math.floor((columns * along.numerator) / along.denominator),
  ];
}

/**
 * Cells of a grid in the order in which the Halton sequence first visits them: neighbours in time lie far apart, so that tokens
 * that are sampled together know little about each other (arXiv 2503.17076).
 * @returns `row * columns + column` of each, a permutation of the cells
 */
export function haltonOrder(rows: number, columns: number): Int32Array {
  for (const size of [rows, columns]) {
    if (!Number.isSafeInteger(size) || size < 1 || size > 4096) {
      throw new InvalidUseError(`haltonOrder: the grid is ${rows} x ${columns}; sides must be whole, from 1 to 4096`);
    }
  }
  const order = new Int32Array(rows * columns);
  const seen = new Uint8Array(order.length);
  for (let index = 1, found = 0; found < order.length; index++) {
    const [row, column] = haltonCell(index, rows, columns);
    const cell = row * columns + column;
    if (seen[cell]) continue;
    seen[cell] = 1;
    order[found++] = cell;
  }
  return order;
}

/** The same order as priorities of the cells, [rows * columns]: the first cell has the highest. */
export function haltonPriority(rows: number, columns: number): Float32Array {
  const order = haltonOrder(rows, columns);
  const priority = new Float32Array(order.length);
  order.forEach((cell, place) => {
    priority[cell] = order.length - place;
  });
  return priority;
}
