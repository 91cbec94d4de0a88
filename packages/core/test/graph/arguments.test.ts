import { describe, expect, it } from "vitest";
import {
  AdamW,
  compile,
  full,
  gatherRows,
  InvalidUseError,
  iota,
  ones,
  Parameter,
  ShapeError,
  type Tensor,
  tensor,
} from "../../src/index.js";

describe("arguments that are still to be computed", () => {
  const appending = () => {
    const digits = new Parameter([], { data: Float32Array.of(0) });
    const step = compile((x: Tensor) => {
      digits.assign(digits.mul(10).add(x));
      return digits.mul(1);
    });
    return { digits, step };
  };

  it("keep the order of calls", async () => {
    const { digits, step } = appending();
    const results = [step(full([], 1)), step(tensor(2)), step(tensor(1).add(2)), step(tensor(4))];
    expect(await Promise.all(results.map(async (result) => (await result).item()))).toEqual([1, 12, 123, 1234]);
    expect(await digits.data()).toEqual(Float32Array.of(1234));
  });

  it("are read before a parameter is set, and when the call is made", async () => {
    const { digits, step } = appending();
    const host = Float32Array.of(3);
    const done = step(tensor(host, { shape: [] }).add(digits));
    digits.set(Float32Array.of(7));
    host[0] = 5;
    expect(await (await done).item()).toBe(3);
    expect(await digits.data()).toEqual(Float32Array.of(7));
  });

  it("fail the call that reads them, which then changes nothing", async () => {
    const { digits, step } = appending();
    const wrong = gatherRows(ones([2, 1]), tensor(Int32Array.of(5))).reshape([]);
    await expect(step(wrong)).rejects.toMatchObject({ code: "TREFOIL_INDEX_OUT_OF_RANGE" });
    expect(await digits.data()).toEqual(Float32Array.of(0));
    await expect(wrong.item()).rejects.toMatchObject({ code: "TREFOIL_INDEX_OUT_OF_RANGE" });
    expect(await (await step(tensor(1))).item()).toBe(1);
  });
});

describe("a parameter as argument", () => {
  it("is refused where the function assigns it: an update in place would change the argument", async () => {
    const p = new Parameter([2], { data: Float32Array.of(1, 2) });
    const optimizer = new AdamW([p], { learningRate: 1, weightDecay: 0 });
    const step = compile((x: Tensor) => {
      optimizer.apply([ones([2])]);
      return x.mul(p).sum();
    });
    await expect(step(p)).rejects.toThrow(InvalidUseError);
    expect(await (await step(tensor([1, 2]))).item()).toBeCloseTo(2, 5);
  });
});

describe("results as constants of another function", () => {
  it.each([2, 200])("[%i, n]: however large", async (n) => {
    const double = compile((x: Tensor) => x.mul(2));
    const held = await double(ones([n, n]));
    const total = compile((x: Tensor) => held.mul(x).sum());
    held.dispose();
    const other = await double(ones([n, n]));
    const totalOfOther = compile((x: Tensor) => other.mul(x).sum());
    if (n > 100) await expect(total(tensor(3))).rejects.toMatchObject({ code: "TREFOIL_INVALID_USE" });
    expect(await (await totalOfOther(tensor(3))).item()).toBe(6 * n * n);
    // The program holds what it reads.
    other.dispose();
    expect(await (await totalOfOther(tensor(1))).item()).toBe(2 * n * n);
    expect(totalOfOther.inspect(tensor(1))).toContain("reduce");
  });
});

describe("assignments outside of compile", () => {
  it("want the parameter's shape and dtype", async () => {
    const p = new Parameter([2], { data: Float32Array.of(1, 2) });
    expect(() => p.assign(iota(2))).toThrow(ShapeError);
    expect(() => p.assign(ones([2, 1]))).toThrow(ShapeError);
    expect(await p.data()).toEqual(Float32Array.of(1, 2));
  });

  it("that fail are reported by what comes next", async () => {
    const p = new Parameter([1, 1], { data: Float32Array.of(1) });
    p.assign(gatherRows(ones([2, 1]), tensor(Int32Array.of(5))));
    await expect(p.data()).rejects.toMatchObject({ code: "TREFOIL_INDEX_OUT_OF_RANGE" });
    expect(await p.data()).toEqual(Float32Array.of(1));
  });
});

it("an async function is refused, and what it throws itself goes unhandled nowhere", async () => {
  const step = compile(async (x: Tensor) => x.mul(await x.item()));
  await expect(step(ones([1]))).rejects.toThrow(/needs a plain function, not an async one/);
});

describe("host arrays", () => {
  it("hold what the parameter is told", () => {
    expect(() => new Parameter([2], { dtype: "i32", data: Float32Array.of(1, 2) })).toThrow(/holds f32, not i32/);
    // Types refuse these; JavaScript does not.
    expect(() => tensor(new Float64Array(2) as unknown as Float32Array)).toThrow(/this is a Float64Array/);
  });
});
