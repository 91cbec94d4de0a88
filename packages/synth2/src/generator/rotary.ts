import { type RotaryTable, rope, type Tensor, tensor } from "@trefoil/core";

/** Rotations of queries and keys by where they stand, so that attention sees distances (RoFormer, arXiv 2104.09864). */
export class Rotary {
  readonly #table: RotaryTable;

  private constructor(angles: readonly (readonly number[])[]) {
    const shape = [angles.length, angles[0]!.length];
    const all = angles.flat();
    this.#table = { cosine: tensor(all.map(Math.cos), { shape }), sine: tensor(all.map(Math.sin), { shape }) };
  }

  /** Of a sequence. */
  static along(length: number, headDim: number): Rotary {
    const frequencies = frequenciesOf(headDim / 2);
    return new Rotary(Array.from({ length }, (_, at) => frequencies.map((frequency) => at * frequency)));
  }

  /** Of a square grid, row by row: half of the pairs turn with the row, half with the column. */
  static over(gridSize: number, headDim: number): Rotary {
    const [down, across] = [frequenciesOf(Math.ceil(headDim / 4)), frequenciesOf(Math.floor(headDim / 4))];
    return new Rotary(
      Array.from({ length: gridSize ** 2 }, (_, at) => [
        ...down.map((frequency) => Math.floor(at / gridSize) * frequency),
        ...across.map((frequency) => (at % gridSize) * frequency),
      ]),
    );
  }

  /** x [batch, sequence, heads, headDim], turned. */
  turn(x: Tensor): Tensor {
    const [batch, length] = x.shape as [number, number];
    const positions = Int32Array.from({ length: batch * length }, (_, i) => i % length);
    return rope(x, this.#table.cosine, this.#table.sine, tensor(positions, { shape: [batch, length] }));
  }
}

/** From 1 radian a step down to a fiftieth: grids and captions are short. */
const frequenciesOf = (pairs: number): number[] => Array.from({ length: pairs }, (_, i) => 50 ** (-i / pairs));
