import { expect, it, vi } from "vitest";
import { compile, defaultDevice, Parameter, type Tensor, tensor } from "../../src/index.js";

it("a number that changes at every call is warned of once, and its programs do not pile up", async () => {
  const warn = vi.spyOn(process, "emitWarning").mockImplementation(() => undefined);
  const p = new Parameter([4], { data: new Float32Array(4) });
  const add = compile(function addRate(x: Tensor, rate: number) {
    p.assign(p.add(x.mul(rate)));
    return p;
  });
  const x = tensor([1, 2, 3, 4]);
  const live: number[] = [];
  let expected = 0;
  for (let i = 0; i < 700; i++) {
    // Not awaited one by one: programs are let go of while they wait in the queue.
    void add(x, i);
    expected += i;
    if (i % 100 === 99) {
      await defaultDevice().synchronize();
      live.push(defaultDevice().memory().live);
    }
  }
  expect([...(await p.data())]).toEqual([1, 2, 3, 4].map((value) => value * expected));
  expect(warn).toHaveBeenCalledTimes(1);
  expect(warn.mock.calls[0]![0]).toMatch(/"addRate" has been compiled 64 times.*tensor\(rate\)/);
  expect(warn.mock.calls[0]![1]).toMatchObject({ code: "TREFOIL_MANY_PROGRAMS" });
  // From 300 calls on there are as many programs as at 700.
  expect(live[6]).toBeLessThanOrEqual(1.05 * live[2]!);

  // What is used again and again stays: it is compiled once.
  let traces = 0;
  const kept = compile((y: Tensor, rate: number) => {
    traces++;
    return y.mul(rate);
  });
  for (let i = 1; i < 400; i++) await Promise.all([kept(x, i), kept(x, 0.5)]);
  expect(traces).toBe(400);
  expect(warn).toHaveBeenCalledTimes(1);
  warn.mockRestore();
});
