import { expect, it } from "vitest";
import {
  broadcastTo,
  compile,
  full,
  gradients,
  matmul,
  ones,
  pad,
  ShapeError,
  type Tensor,
  tensor,
} from "../../src/index.js";

/** Values 1, 2, … of a shape. */
const counted = (shape: number[]): Tensor => {
  const size = shape.reduce((product, each) => product * each, 1);
  return tensor(
    Float32Array.from({ length: size }, (_, i) => i + 1),
    { shape },
  );
};

it.each([
  [
    [1, 2, 3],
    [4, 3, 2],
  ],
  [
    [4, 2, 3],
    [1, 3, 2],
  ],
  [
    [4, 1, 2, 3],
    [5, 3, 2],
  ],
  [
    [4, 1, 2, 3],
    [1, 5, 3, 2],
  ],
])("matmul stretches the leading axes of both operands: %j by %j", async (a, b) => {
  const [x, y] = [counted(a), counted(b)];
  const product = matmul(x, y);
  const rank = Math.max(a.length, b.length);
  const padded = (shape: number[]) => [...new Array<number>(rank - shape.length).fill(1), ...shape];
  const leading = padded(a)
    .slice(0, -2)
    .map((size, i) => Math.max(size, padded(b)[i]!));
  expect(product.shape).toEqual([...leading, 2, 2]);
  // The same by a sum over the inner axis, [.., 2, 3, 1] by [.., 1, 3, 2].
  const byHand = x
    .reshape([...a, 1])
    .mul(y.reshape([...b.slice(0, -2), 1, 3, 2]))
    .sum({ axes: -2 });
  expect(await product.toArray()).toEqual(await byHand.toArray());
  const both = compile((p: Tensor, q: Tensor) => {
    const loss = (each: Tensor) => each.square().sum();
    const stretched = p
      .reshape([...a, 1])
      .mul(q.reshape([...b.slice(0, -2), 1, 3, 2]))
      .sum({ axes: -2 });
    return [gradients(loss(matmul(p, q)), [p, q]), gradients(loss(stretched), [p, q])];
  });
  const [actual, expected] = await both(x, y);
  for (const i of [0, 1]) expect(await actual![i]!.toArray()).toEqual(await expected![i]!.toArray());
});

it("constants stretch by the same rules as values", () => {
  expect(matmul(ones([1, 3, 4]), ones([5, 4, 2])).shape).toEqual([5, 3, 2]);
  for (const from of [tensor([[1], [2]]), full([2, 1], 1)]) {
    for (const shape of [[1], [3], [2], [3, 1], [2, -1], [2, 1.5]])
      expect(() => broadcastTo(from, shape), `${from} to [${shape}]`).toThrow(ShapeError);
    expect(broadcastTo(from, [4, 2, 3]).shape).toEqual([4, 2, 3]);
    expect(broadcastTo(from, [2, 0]).shape).toEqual([2, 0]);
  }
});

it("a constant has the dtype that it was given, a number that which suits the other operand", () => {
  const whole = tensor(Int32Array.of(1, 2, 3));
  for (const constant of [ones([3]), full([], 1), full([], 0), full([], 2)]) {
    for (const result of [
      constant.mul(whole),
      whole.mul(constant),
      constant.add(whole),
      whole.add(constant),
      whole.sub(constant),
    ])
      expect(result.dtype).toBe("f32");
  }
  for (const value of [0, 1, 2, full([], 1, "i32"), full([], 0, "i32")]) {
    for (const result of [whole.mul(value), whole.add(value), whole.sub(value)]) expect(result.dtype).toBe("i32");
  }
  expect(whole.mul(0.5).dtype).toBe("f32");
});

it("slices and paddings start at whole positions", () => {
  expect(() => tensor([1, 2, 3]).slice(0, 0.5, 1.5)).toThrow(ShapeError);
  expect(() => pad(tensor([1, 2]), 0, 0.5, 4)).toThrow(ShapeError);
});
