import { expect, it } from "vitest";
import { compile, matmul, Parameter, sum, type Tensor, tensor } from "../../src/index.js";

/** Gaps between the ticks of a 5 ms timer while `work` runs, and how long that took, in milliseconds. */
async function watch(work: () => Promise<unknown>): Promise<{ gaps: number[]; took: number }> {
  const gaps: number[] = [];
  const begun = performance.now();
  let last = begun;
  const timer = setInterval(() => {
    const now = performance.now();
    gaps.push(now - last);
    last = now;
  }, 5);
  await work();
  clearInterval(timer);
  return { gaps, took: performance.now() - begun };
}

it("keeps the event loop free: a 5 ms timer fires on time while a step of a second runs", async () => {
  const x = tensor(new Float32Array(512 * 512).fill(0.001), { shape: [512, 512] });
  // Products in a chain, ever more until one step takes a second on this machine.
  for (let products = 100; ; products *= 2) {
    const step = compile((value: Tensor) => {
      let y = value;
      for (let i = 0; i < products; i++) y = matmul(y, y).mul(1e-3);
      return sum(y);
    });
    step.inspect(x);
    const { gaps, took } = await watch(() => step(x));
    if (took < 1000) continue;
    // Kernels keep every core busy, so the scheduler may hold a tick back; a blocked loop would give one gap of a second.
    gaps.sort((a, b) => a - b);
    expect(gaps[Math.floor(gaps.length / 2)]).toBeLessThan(25);
    expect(gaps.at(-1)!).toBeLessThan(took / 3);
    expect(gaps.length).toBeGreaterThan(took / 5 / 5);
    return;
  }
});

it("lets the timer fire while steps of microseconds, which run on the calling thread, are awaited one after the other", async () => {
  const counter = new Parameter([], { trainable: false });
  const step = compile(() => counter.assign(counter.add(1)));
  let steps = 0;
  const { gaps, took } = await watch(async () => {
    for (const begun = performance.now(); performance.now() - begun < 400; steps++) await step();
  });
  expect(await counter.item()).toBe(steps);
  expect(gaps.length).toBeGreaterThan(took / 5 / 5);
  expect(gaps.reduce((longest, gap) => Math.max(longest, gap))).toBeLessThan(took / 3);
  counter.dispose();
});
