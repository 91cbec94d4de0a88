import { describe, expect, it } from "vitest";
import {
  compile,
  defaultDevice,
  full,
  matmul,
  Parameter,
  sum,
  type Tensor,
  tensor,
  valueAndGrad,
} from "../../src/index.js";

// Held to the end: what a test leaves to the garbage collector would change the counters of the next. For the same reason this is a file,
// so a process, of its own.
const kept: unknown[] = [];

describe("memory", () => {
  it("stays flat over 1,000 steps", async () => {
    const w = new Parameter([64, 64], { data: new Float32Array(64 * 64).fill(0.01) });
    const step = compile((x: Tensor) => {
      const { value, grads } = valueAndGrad(() => sum(matmul(x, w).square()), [w]);
      w.assign(w.sub(grads[0]!.mul(1e-6)));
      return value;
    });
    kept.push(w, step);
    const batch = new Float32Array(32 * 64).fill(0.5);
    const once = () => step(tensor(batch.slice(), { shape: [32, 64] }));
    for (let i = 0; i < 20; i++) await once();
    const before = defaultDevice().memory();
    for (let i = 0; i < 1000; i++) await once();
    const after = defaultDevice().memory();
    expect(after.live).toBe(before.live);
    expect(after.buffers).toBe(before.buffers);
  });

  it("frees a large result that is disposed", async () => {
    const make = compile((x: Tensor) => x.add(full([300, 300], 1)));
    const big = await make(tensor([1]));
    kept.push(make, big);
    const { buffers } = defaultDevice().memory();
    big.dispose();
    await defaultDevice().synchronize();
    expect(defaultDevice().memory().buffers).toBe(buffers - 1);
    await expect(big.data()).rejects.toThrow(/disposed/);
  });

  it("frees parameters that are disposed", async () => {
    const big = new Parameter([1000, 1000]);
    kept.push(big);
    await big.sum().data();
    const { live, buffers } = defaultDevice().memory();
    big.dispose();
    await defaultDevice().synchronize();
    expect(defaultDevice().memory()).toMatchObject({ live: live - 4_000_000, buffers: buffers - 1 });
    await expect(big.mul(2).sum().data()).rejects.toThrow(/disposed/);
  });

  it("frees parameters that are disposed although a compiled function has them, which then refuses", async () => {
    const [big, other] = [new Parameter([1000, 1000]), new Parameter([2])];
    const step = compile((x: Tensor) => {
      other.assign(other.add(x));
      return big.sum().add(x.sum());
    });
    kept.push(step);
    const before = defaultDevice().memory();
    await step(tensor([1, 2]));
    // In flight while its parameter goes.
    const running = Array.from({ length: 5 }, () => step(tensor([1, 2])));
    big.dispose();
    expect(await Promise.all((await Promise.all(running)).map((each) => each.item()))).toEqual([3, 3, 3, 3, 3]);
    await defaultDevice().synchronize();
    expect(defaultDevice().memory().live).toBeLessThan(before.live + 100_000);
    await expect(step(tensor([1, 2]))).rejects.toMatchObject({ code: "TREFOIL_INVALID_USE" });
    expect([...(await other.data())]).toEqual([6, 12]);
    other.dispose();
  });
});
