import { expect, it } from "vitest";
import {
  clamp,
  equal,
  greater,
  greaterEqual,
  less,
  lessEqual,
  logicalNot,
  notEqual,
  type Tensor,
  type TensorLike,
  tensor,
} from "../../src/index.js";

const values = [-1, 0, 2, Number.NaN];

it.each<[string, (a: TensorLike, b: TensorLike) => Tensor, (a: number, b: number) => boolean]>([
  ["less", less, (a, b) => a < b],
  ["lessEqual", lessEqual, (a, b) => a <= b],
  ["greater", greater, (a, b) => a > b],
  ["greaterEqual", greaterEqual, (a, b) => a >= b],
  ["equal", equal, (a, b) => a === b],
  ["notEqual", notEqual, (a, b) => a !== b],
])("%s is 1 or 0, as JavaScript compares, NaN too", async (_name, op, expected) => {
  const [rows, columns] = [tensor(values, { shape: [4, 1] }), tensor(values)];
  const grid = values.map((a) => values.map((b) => Number(expected(a, b))));
  expect(await op(rows, columns).toArray()).toEqual(grid);
  expect(await op(columns, 0).toArray()).toEqual(values.map((a) => Number(expected(a, 0))));
});

it("logicalNot is 1 at 0 alone, clamp keeps NaN", async () => {
  const x = tensor([-3, -0, 0, 0.5, Number.NaN]);
  expect(await logicalNot(x).toArray()).toEqual([0, 1, 1, 0, 0]);
  expect(await clamp(x, -1, 0.25).toArray()).toEqual([-1, -0, 0, 0.25, Number.NaN]);
});
