import { expect, it } from "vitest";
import { compile, full, matmul, sum, type Tensor, tensor } from "../../src/index.js";

it("keeps the event loop free: a 5 ms timer fires on time while a step of a second runs", async () => {
  // A chain of products that takes about a second in all, calibrated on this machine.
  const chain = (length: number) =>
    compile((x: Tensor) => {
      let y = x;
      for (let i = 0; i < length; i++) y = matmul(y, y).mul(1e-3);
      return sum(y);
    });
  const x = tensor(new Float32Array(512 * 512).fill(0.001), { shape: [512, 512] });
  const probe = chain(20);
  await probe(x);
  const begun = performance.now();
  await probe(x);
  const each = (performance.now() - begun) / 20;
  const long = chain(Math.ceil(1000 / each));
  await long(full([512, 512], 0));

  const delays: number[] = [];
  let last = performance.now();
  const timer = setInterval(() => {
    const now = performance.now();
    delays.push(now - last);
    last = now;
  }, 5);
  const started = performance.now();
  await long(x);
  const took = performance.now() - started;
  clearInterval(timer);
  expect(took).toBeGreaterThan(500);
  // Every core is busy with kernels, so the scheduler may hold one tick back; blocking would give one tick of a second.
  expect(delays.length).toBeGreaterThan(took / 5 / 4);
  expect(delays.sort((a, b) => a - b)[Math.floor(delays.length / 2)]).toBeLessThan(15);
});
