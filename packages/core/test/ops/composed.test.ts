import { describe, expect, it } from "vitest";
import {
  argmax,
  compile,
  concat,
  cumulativeSum,
  geluExact,
  gradients,
  InvalidUseError,
  logSoftmax,
  logsumexp,
  oneHot,
  ShapeError,
  softmax,
  split,
  type Tensor,
  tensor,
  topK,
  zeros,
} from "../../src/index.js";
import { gradientAndDifferences } from "./differences.js";

const numbers = async (x: Tensor) => [...(await x.data())];

function expectClose(actual: readonly number[], expected: readonly number[], digits: number): void {
  expect(actual).toHaveLength(expected.length);
  actual.forEach((value, i) => {
    expect(value, `value ${i}`).toBeCloseTo(expected[i]!, digits);
  });
}

const shape = [2, 3, 4];
const values = Array.from({ length: 24 }, (_, i) => 1.5 * Math.sin(i * i + 1));
const x = tensor(Float32Array.from(values), { shape });
// Tells the elements apart, for losses.
const weights = tensor(Float32Array.from({ length: 24 }, (_, i) => Math.cos(3 * i)));
const weighted = (y: Tensor) =>
  y
    .reshape([-1])
    .mul(weights.slice(0, 0, y.size))
    .sum();

it("geluExact and its gradient are PyTorch's gelu, in double precision", async () => {
  const at = tensor([-4, -1.5, -0.3, 0, 0.25, 1, 3.7]);
  const y = geluExact(at);
  const [gradient] = gradients(y.sum(), [at]);
  expectClose(
    await numbers(y),
    [
      -0.00012668496733247991, -0.10021080190328704, -0.1146265733433142, 0, 0.14967658142073093, 0.841344746068543,
      3.699601140986134,
    ],
    6,
  );
  expectClose(
    await numbers(gradient!),
    [
      -0.0005036496612264215, -0.1274691922299796, 0.26767223317289013, 0.5, 0.695373354883636, 1.0833154705876864,
      1.0014638872675603,
    ],
    6,
  );
});

describe("along another axis", () => {
  // Runs of x along the middle axis, in double precision.
  const runs = [0, 1].flatMap((i) => [0, 1, 2, 3].map((k) => [0, 1, 2].map((j) => values[(i * 3 + j) * 4 + k]!)));
  const place = (f: (run: number[]) => number[]) => {
    const result = new Array<number>(24);
    runs.forEach((run, r) => {
      f(run).forEach((value, j) => {
        result[(Math.floor(r / 4) * 3 + j) * 4 + (r % 4)] = value;
      });
    });
    return result;
  };
  const total = (run: number[]) => run.reduce((sum, value) => sum + Math.exp(value), 0);

  it.each([1, -2])("softmax, logSoftmax, logsumexp and argmax: axis %i", async (axis) => {
    expectClose(
      await numbers(softmax(x, { axis })),
      place((run) => run.map((v) => Math.exp(v) / total(run))),
      6,
    );
    expectClose(
      await numbers(x.logSoftmax({ axis })),
      place((run) => run.map((v) => v - Math.log(total(run)))),
      6,
    );
    expect(logsumexp(x, { axis }).shape).toEqual([2, 4]);
    expectClose(
      await numbers(logsumexp(x, { axis })),
      runs.map((run) => Math.log(total(run))),
      6,
    );
    const largest = argmax(x, { axis });
    expect(largest.shape).toEqual([2, 4]);
    expect(await numbers(largest)).toEqual(runs.map((run) => run.indexOf(Math.max(...run))));
  });

  it.each([
    ["softmax", softmax],
    ["logSoftmax", logSoftmax],
    ["logsumexp", logsumexp],
  ])("%s has the gradient of its differences", async (_name, op) => {
    const loss = (at: Tensor) => weighted(op(at, { axis: 0 }));
    const { gradient, differences } = await gradientAndDifferences(loss, values, shape);
    expectClose(gradient, differences, 3);
  });

  it("refuses an axis that is not there, or not an option", () => {
    expect(() => softmax(x, { axis: 3 })).toThrow(ShapeError);
    expect(() => argmax(tensor(1))).toThrow(ShapeError);
    // As `map` calls: an index must not be taken for an axis.
    expect(() => [x].map(softmax as (x: Tensor) => Tensor)).toThrow(InvalidUseError);
  });
});

describe("split", () => {
  it("undoes concat along any axis", async () => {
    for (const [axis, sizes] of [
      [-1, [1, 3]],
      [1, [2, 0, 1]],
    ] as const) {
      const parts = split(x, sizes, axis);
      expect(parts.map((part) => part.shape.at(axis))).toEqual(sizes);
      expect(await concat(parts, axis).data()).toEqual(await x.data());
    }
  });

  it("has the gradient of its differences, also where pieces go unread or are read twice", async () => {
    const loss = (at: Tensor) => {
      const [a, , c] = split(at, [1, 1, 2]) as [Tensor, Tensor, Tensor];
      return weighted(a.mul(c)).add(weighted(c.square()));
    };
    const { gradient, differences } = await gradientAndDifferences(loss, values, shape);
    expectClose(gradient, differences, 2);
    expect(gradient.filter((_, i) => i % 4 === 1)).toEqual(new Array(6).fill(0));
  });

  it("gives its gradient as one concat, in memory that does not grow with the number of pieces", () => {
    const memory = (count: number) => {
      const step = compile((at: Tensor) => {
        const pieces = split(at, new Array<number>(count).fill(1024 / count));
        const loss = pieces.map((piece) => piece.square().sum()).reduce((sum, each) => sum.add(each));
        return gradients(loss, [at])[0]!;
      });
      expect(step.inspect(zeros([64, 1024])).match(/ concat/g)).toHaveLength(1);
      return step.memory(zeros([64, 1024]));
    };
    const [many, few] = [memory(128), memory(2)];
    expect(many.temporaryBytes).toBeLessThan(1.5 * few.temporaryBytes);
    expect(many.arenaBytes).toBeLessThan(1.5 * few.arenaBytes);
  });

  it("wants sizes that add up", () => {
    expect(() => split(x, [1, 2])).toThrow(/1 \+ 2 do not add up to axis 2/);
  });
});

it("oneHot is 1 at the index; a row of zeros where it is outside", async () => {
  const hot = oneHot(tensor([[2, 0, -1]], { dtype: "i32" }), 3);
  expect(await hot.toArray()).toEqual([
    [
      [0, 0, 1],
      [1, 0, 0],
      [0, 0, 0],
    ],
  ]);
  expect(() => oneHot(tensor([1]), 3)).toThrow(InvalidUseError);
});

describe("cumulativeSum", () => {
  it.each([0, 1, 2, -1])("sums up to each position of axis %i", async (axis) => {
    const stride = [12, 4, 1].at(axis)!;
    const size = shape.at(axis)!;
    const expected = [...values];
    for (let i = 0; i < 24; i++) if (Math.floor(i / stride) % size > 0) expected[i]! += expected[i - stride]!;
    expectClose(await numbers(cumulativeSum(x, { axis })), expected, 5);
  });

  it("of whole numbers stays whole", async () => {
    const sums = cumulativeSum(tensor([3, -1, 4, 1, -5], { dtype: "i32" }));
    expect(sums.dtype).toBe("i32");
    expect(await numbers(sums)).toEqual([3, 2, 6, 7, 2]);
  });

  it("has the gradient of its differences", async () => {
    const loss = (at: Tensor) => weighted(cumulativeSum(at, { axis: 1 }));
    const { gradient, differences } = await gradientAndDifferences(loss, values, shape);
    expectClose(gradient, differences, 3);
  });
});

describe("topK", () => {
  it("gives the largest, in order, and where they stand", async () => {
    const { values: kept, indices } = topK(x, 3);
    expect(kept.shape).toEqual([2, 3, 3]);
    const rows = Array.from({ length: 6 }, (_, row) => values.slice(4 * row, 4 * row + 4));
    const order = rows.map((row) => [0, 1, 2, 3].sort((a, b) => row[b]! - row[a]!).slice(0, 3));
    expect(await numbers(indices)).toEqual(order.flat());
    expect(await numbers(kept)).toEqual(order.flatMap((at, row) => at.map((j) => Math.fround(rows[row]![j]!))));
  });

  it("breaks ties towards the lower index, and takes a vector", async () => {
    const { values: kept, indices } = topK(tensor([1, 3, 3, 2]), 4);
    expect(await numbers(kept)).toEqual([3, 3, 2, 1]);
    expect(await numbers(indices)).toEqual([1, 2, 3, 0]);
  });

  it("has the gradient of its differences", async () => {
    const loss = (at: Tensor) => weighted(topK(at, 2).values.square());
    const { gradient, differences } = await gradientAndDifferences(loss, values, shape);
    expectClose(gradient, differences, 2);
  });

  it("refuses more than there are", () => {
    expect(() => topK(x, 5)).toThrow(ShapeError);
    expect(() => topK(x, 0)).toThrow(ShapeError);
  });
});
