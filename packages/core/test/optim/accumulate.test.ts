import { expect, it } from "vitest";
import {
  AdamW,
  type BatchPart,
  batchParts,
  compile,
  GradientAccumulator,
  InitialValues,
  linear,
  mean,
  Parameter,
  type Tensor,
  tensor,
  valueAndGrad,
} from "../../src/index.js";

/** Three updates of a linear regression, each on 12 rows computed in `parts` turns. */
async function trained(parts: number): Promise<Float32Array> {
  const random = new InitialValues(5);
  const w = new Parameter([2, 6], { data: random.normal([2, 6], 1) });
  const optimizer = new AdamW([w], { learningRate: 0.1 });
  using accumulator = new GradientAccumulator([w]);
  const step = compile((part: BatchPart, x: Tensor, y: Tensor) => {
    const { value, grads } = valueAndGrad(() => mean(linear(x, w).sub(y).square()).mul(1 / parts), [w]);
    const sums = accumulator.add(grads, part);
    if (sums) optimizer.apply(sums);
    return value;
  });
  for (let update = 0; update < 3; update++) {
    const [x, y] = [random.normal([12, 6], 1), random.normal([12, 2], 1)];
    const rows = 12 / parts;
    await Promise.all(
      batchParts(parts).map((part, i) =>
        step(
          part,
          tensor(x.subarray(i * rows * 6, (i + 1) * rows * 6), { shape: [rows, 6] }),
          tensor(y.subarray(i * rows * 2, (i + 1) * rows * 2), { shape: [rows, 2] }),
        ),
      ),
    );
  }
  return (await w.data()) as Float32Array;
}

it.each([2, 3, 4, 12])("a batch in %i parts gives the update of the whole", async (parts) => {
  const whole = await trained(1);
  (await trained(parts)).forEach((value, i) => {
    // The same sums in another order, through three updates of AdamW.
    expect(Math.abs(value - whole[i]!)).toBeLessThan(1e-5);
  });
});

it("names the parts of a batch", () => {
  expect([1, 2, 4].map(batchParts)).toEqual([["only"], ["first", "last"], ["first", "middle", "middle", "last"]]);
});
