import type { TokenFile } from "./token-file.js";

/** A stretch of one document: `length` positions, each predicting the next token, from token `start` of the file. */
export interface Piece {
  start: number;
  length: number;
}

/**
 * Whole documents in rows of a fixed length: best-fit decreasing (Ding et al. 2024, "Fewer Truncations Improve Language Modeling",
 * arXiv 2404.10830). Only a document longer than a row is cut, and no token but a document's first goes without being predicted.
 * The same file and length give the same rows.
 */
export class PackedRows {
  readonly rows: number;
  /** Positions that hold text, over all rows. */
  readonly positions: number;
  /** First piece of each row, and the number of pieces behind the last. */
  readonly #first: Int32Array;
  readonly #starts: Float64Array;
  readonly #lengths: Int32Array;

  /** @param sequence positions of a row */
  constructor(file: TokenFile, sequence: number) {
    const pieces = piecesOf(file.documentEnds(), sequence);
    const order = byDecreasingLength(pieces.lengths, sequence);
    const rowOf = new Int32Array(order.length);
    const room = new Rooms(sequence);
    let rows = 0;
    let positions = 0;
    for (const piece of order) {
      const length = pieces.lengths[piece]!;
      const row = room.take(length) ?? { index: rows++, left: sequence };
      rowOf[piece] = row.index;
      positions += length;
      room.put(row.index, row.left - length);
    }
    this.rows = rows;
    this.positions = positions;
    this.#first = new Int32Array(rows + 1);
    for (const row of rowOf) this.#first[row + 1]!++;
    for (let row = 0; row < rows; row++) this.#first[row + 1]! += this.#first[row]!;
    const next = this.#first.slice();
    this.#starts = new Float64Array(order.length);
    this.#lengths = new Int32Array(order.length);
    rowOf.forEach((row, piece) => {
      const at = next[row]!++;
      this.#starts[at] = pieces.starts[piece]!;
      this.#lengths[at] = pieces.lengths[piece]!;
    });
  }

  /** The pieces of a row, in the order of the file. */
  *piecesOf(row: number): Generator<Piece> {
    for (let at = this.#first[row]!; at < this.#first[row + 1]!; at++)
      yield { start: this.#starts[at]!, length: this.#lengths[at]! };
  }
}

function piecesOf(ends: Float64Array, sequence: number): { starts: Float64Array; lengths: Int32Array } {
  const starts: number[] = [];
  const lengths: number[] = [];
  let start = 0;
  for (const end of ends) {
    // The last token of a document is predicted and predicts nothing.
    for (let at = start; at < end - 1; at += sequence) {
      starts.push(at);
      lengths.push(Math.min(sequence, end - 1 - at));
    }
    start = end;
  }
  return { starts: Float64Array.from(starts), lengths: Int32Array.from(lengths) };
}

/** Counting sort; equal lengths stay in the order of the file. */
function byDecreasingLength(lengths: Int32Array, longest: number): Int32Array {
  const next = new Int32Array(longest + 2);
  for (const length of lengths) next[longest - length + 1]!++;
  for (let i = 0; i <= longest; i++) next[i + 1]! += next[i]!;
  const order = new Int32Array(lengths.length);
  lengths.forEach((length, piece) => {
    order[next[longest - length]!++] = piece;
  });
  return order;
}

/** Rows by the room that is left in them, with a tree over rooms in which the least that suffices is found in log time. */
class Rooms {
  readonly #rows: number[][];
  readonly #leaves: number;
  /** Number of rows below each node; leaf `leaves + room`. */
  readonly #counts: Int32Array;

  constructor(largest: number) {
    this.#rows = Array.from({ length: largest + 1 }, () => []);
    this.#leaves = 2 ** Math.ceil(Math.log2(largest + 1));
    this.#counts = new Int32Array(2 * this.#leaves);
  }

  put(index: number, left: number): void {
    this.#rows[left]!.push(index);
    this.#count(left, 1);
  }

  /** Takes out a row with the least room from `needed` up. */
  take(needed: number): { index: number; left: number } | undefined {
    let node = this.#leaves + needed;
    if (this.#counts[node] === 0) {
      // Up until there is something to the right, then down to its leftmost leaf.
      while (node > 1 && (node % 2 === 1 || this.#counts[node + 1] === 0)) node >>= 1;
      if (node <= 1) return undefined;
      node++;
      while (node < this.#leaves) node = this.#counts[2 * node]! > 0 ? 2 * node : 2 * node + 1;
    }
    const left = node - this.#leaves;
    this.#count(left, -1);
    return { index: this.#rows[left]!.pop()!, left };
  }

  #count(left: number, change: number): void {
    for (let node = this.#leaves + left; node >= 1; node >>= 1) this.#counts[node]! += change;
  }
}
