// Outside of compile a tensor is computed when it is read. A parameter that it needs must then still be what it was.
import { expect, it } from "vitest";
import {
  AdamW,
  compile,
  GradientAccumulator,
  gradients,
  InvalidUseError,
  Parameter,
  type Tensor,
  tensor,
} from "../../src/index.js";

const values = async (x: Tensor) => [...(await x.data())];
const make = (...numbers: number[]) => new Parameter([numbers.length], { data: Float32Array.from(numbers) });
const message = /a parameter that this tensor reads was changed after the tensor was built/;

it("a step without compile is refused where its second parameter would see the first one's update", async () => {
  const [p, q] = [make(1), make(2)];
  const loss = p.mul(q).square().sum();
  const [dp, dq] = gradients(loss, [p, q]);
  p.assign(p.sub(dp!.mul(0.1)));
  expect(() => q.assign(q.sub(dq!.mul(0.1)))).toThrow(message);
  expect(await values(p)).toEqual([Math.fround(1 - Math.fround(0.1) * 8)]);
  expect(await values(q)).toEqual([2]);
});

it.each<[string, (p: Parameter) => unknown]>([
  ["set", (p) => p.set(Float32Array.of(5))],
  ["assign", (p) => p.assign(tensor([5]))],
  ["a compiled step", (p) => void compile(() => p.assign(tensor([5])))()],
])("%s makes what was built before unreadable, and what is built after reads the new value", async (_name, change) => {
  const p = make(3);
  const [read, unread] = [p.mul(2), p.mul(2).add(1)];
  expect(await values(read)).toEqual([6]);
  change(p);
  expect(await values(read)).toEqual([6]);
  await expect(unread.data()).rejects.toThrow(InvalidUseError);
  await expect(unread.data()).rejects.toThrow(message);
  await expect(async () => compile((x: Tensor) => x)(unread)).rejects.toThrow(message);
  expect(() => gradients(unread.sum(), [p])).toThrow(message);
  expect(await values(p.mul(2))).toEqual([10]);
});

it("a compiled function reads the parameters of every run, also through tensors from outside", async () => {
  const p = make(3);
  const double = p.mul(2);
  const run = compile(() => double.add(0));
  expect(await values(await run())).toEqual([6]);
  p.set(Float32Array.of(4));
  expect(await values(await run())).toEqual([8]);
});

it("AdamW and the accumulator say that they belong into compile", () => {
  const p = make(1);
  expect(() => new AdamW([p], { learningRate: 0.1 }).apply([tensor([1])])).toThrow(
    /AdamW.apply: use it inside compile/,
  );
  using accumulator = new GradientAccumulator([p]);
  expect(() => accumulator.add([tensor([1])], "first")).toThrow(/GradientAccumulator.add: use it inside compile/);
});
