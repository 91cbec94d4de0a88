import { describe, expect, it } from "vitest";
import {
  AdamW,
  cast,
  compile,
  crossEntropy,
  DtypeError,
  divide,
  full,
  gradients,
  iota,
  mean,
  Parameter,
  power,
  rmsNorm,
  ShapeError,
  softmax,
  sum,
  sumSquares,
  type Tensor,
  tensor,
} from "../../src/index.js";

const bf16 = (...values: number[]) => cast(tensor(values), "bf16");

describe("operands of another dtype", () => {
  it.each<[string, (x: Tensor) => Tensor]>([
    ["softmax", softmax],
    ["rms_norm", (x) => rmsNorm(x, full([4], 1))],
    ["argmax", (x) => x.argmax()],
    ["cross_entropy", (x) => crossEntropy(x.reshape([1, 4]), tensor(Int32Array.of(0))).loss],
    ["sum_squares", (x) => sumSquares([full([1], 0), x])],
  ])("%s refuses those whose bits it would read as f32", (name, op) => {
    for (const x of [bf16(1, 2, 3, 4), iota(4)]) {
      expect(() => op(x)).toThrow(DtypeError);
      expect(() => op(x)).toThrow(new RegExp(`^${name}: operand . must be f32; cast it first`));
    }
  });

  it("AdamW refuses parameters that are not f32", async () => {
    const p = new Parameter([4], { dtype: "bf16" });
    const optimizer = new AdamW([p], { learningRate: 1 });
    await expect(compile(() => optimizer.apply([full([4], 1)]))()).rejects.toThrow(DtypeError);
  });

  it("reductions take them as numbers", async () => {
    expect(await sum(iota(5)).item()).toBe(10);
    expect(await iota(5).max().item()).toBe(4);
    expect(await sum(bf16(1, 2.5, -3)).item()).toBe(0.5);
    expect(mean(full([], 3, "i32")).dtype).toBe("f32");
  });
});

describe("i32 and numbers", () => {
  it("a fraction makes f32", async () => {
    expect(await iota(3).add(0.5).toArray()).toEqual([0.5, 1.5, 2.5]);
    expect(await iota(3).sub(0.5).toArray()).toEqual([-0.5, 0.5, 1.5]);
    expect(await full([2], 3, "i32").mul(0.5).toArray()).toEqual([1.5, 1.5]);
  });

  it("a quotient is f32, whatever it is divided by", () => {
    for (const divisor of [1, 2, 0.5]) expect(divide(iota(3), divisor).dtype).toBe("f32");
  });

  it("truncation has no gradient", async () => {
    const x = tensor([1.5, -2.5]);
    const [dx] = gradients(cast(cast(x, "i32"), "f32").mul(x).sum(), [x]);
    expect(await dx!.toArray()).toEqual([1, -2]);
  });
});

describe("bf16", () => {
  it("reads as numbers", async () => {
    expect(await bf16(1, -0.5).toArray()).toEqual([1, -0.5]);
    expect(await bf16(1.5).item()).toBe(1.5);
    expect(await full([2], 1.5, "bf16").toArray()).toEqual([1.5, 1.5]);
    const through = compile((x: Tensor) => cast(x, "f32"));
    expect(await (await through(full([1], -2, "bf16"))).item()).toBe(-2);
  });

  it("becomes f32 in arithmetic, also where that changes nothing", () => {
    for (const y of [bf16(1).add(0), bf16(1).mul(1), bf16(1).div(1)]) expect(y.dtype).toBe("f32");
  });
});

it("divides by numbers whose reciprocal is no normal f32", async () => {
  // f32 has 2^-140 and 2^127, but neither's reciprocal at full precision.
  expect(
    await tensor([2 ** -139])
      .div(2 ** -140)
      .toArray(),
  ).toEqual([2]);
  expect(
    await tensor([3 * 2 ** 125])
      .div(1.5 * 2 ** 126)
      .toArray(),
  ).toEqual([1]);
  expect(await tensor([1, 0]).div(0).toArray()).toEqual([Number.POSITIVE_INFINITY, Number.NaN]);
});

it("x^0 is flat at 0 too, as in PyTorch", async () => {
  const x = tensor([0, 2, 0]);
  const [dx] = gradients(power(x, tensor([0, 0, 1])).sum(), [x]);
  expect(await dx!.toArray()).toEqual([0, 0, 1]);
});

it("shapes that are none are refused at the op", () => {
  expect(() => iota(-1)).toThrow(ShapeError);
  expect(() => iota(2).slice(0, 0.5)).toThrow(ShapeError);
  expect(() =>
    full([1, 1, 1, 1, 1, 1], 0)
      .matmul(full([1, 1], 0))
      .reshape([1, 1, 1, 1, 1, 1, 1]),
  ).toThrow(ShapeError);
});
