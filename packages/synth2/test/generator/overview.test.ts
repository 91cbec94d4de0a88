import { gradients, InitialValues, multiply, Parameter, sum, tensor } from "@trefoil/core";
import { describe, expect, it } from "vitest";
import { Overview } from "../../src/generator/overview.js";

describe("an overview of all positions", () => {
  const [batch, positions, width] = [2, 3, 4];
  const shape = [batch, positions, width];
  const overview = new Overview(width, new InitialValues(6));
  const values = new InitialValues(7).normal(shape, 1);
  const each = positions * width;

  /** The same in double precision. */
  async function expected(): Promise<(x: Float32Array) => number[]> {
    const [into, bias, out] = await Promise.all(
      [overview.into.weight, overview.into.bias!, overview.out.weight].map((parameter) => parameter.data()),
    );
    return (x) =>
      Array.from(x, (value, i) => {
        const row = Math.floor(i / each) * each;
        const found = new Array<number>(width).fill(0);
        for (let at = row; at < row + each; at += width) {
          const own = [...x.subarray(at, at + width)];
          const scale = 1 / Math.sqrt(own.reduce((total, v) => total + v ** 2, 0) / width + 1e-6);
          for (let k = 0; k < width; k++) {
            const raw = own.reduce((total, v, j) => total + v * scale * into![k * width + j]!, bias![k]!);
            found[k]! += Math.max(0, raw) / Math.sqrt(positions);
          }
        }
        return found.reduce((total, v, k) => total + v * out![(i % width) * width + k]!, value);
      });
  }

  it("adds a sum over the picture to every position, of its own picture alone", async () => {
    const found = await overview.forward(tensor(values, { shape })).data();
    (await expected())(values).forEach((value, i) => {
      expect(found[i]).toBeCloseTo(value, 5);
    });
  });

  it("has the gradient of its finite differences", async () => {
    const forward = await expected();
    const x = new Parameter(shape, { data: values });
    const direction = new InitialValues(8).normal(shape, 1);
    const [gradient] = gradients(sum(multiply(overview.forward(x), tensor(direction, { shape }))), [x]);
    const found = await gradient!.data();
    const loss = (at: Float32Array) => forward(at).reduce((total, v, i) => total + v * direction[i]!, 0);
    for (let i = 0; i < values.length; i += 2) {
      const [above, below] = [values.slice(), values.slice()];
      above[i]! += 1e-3;
      below[i]! -= 1e-3;
      // Steps of 1e-3 that single precision rounds.
      expect(found[i]).toBeCloseTo((loss(above) - loss(below)) / (above[i]! - below[i]!), 3);
    }
  });
});
