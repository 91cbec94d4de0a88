import { expect, it } from "vitest";
import { WeightCopies } from "../../src/graph/weight-copies.js";
import { compile, Linear, type Tensor, tensor } from "../../src/index.js";
import { rotaryTable } from "../../src/nn/rotary.js";
import { KeyValueCache, SelfAttention } from "../../src/nn/self-attention.js";

const [batch, steps, hiddenSize] = [2, 3, 24];
const options = { hiddenSize, heads: 4, keyValueHeads: 2, headDim: 6, standardDeviation: 0.3 };
const rotary = rotaryTable(16, options.headDim, 1e4);
const x = tensor(
  Float32Array.from({ length: batch * steps * hiddenSize }, (_, i) => Math.sin(i * i + 1)),
  { shape: [batch, steps, hiddenSize] },
);
const positions = tensor(Int32Array.of(2, 3, 4, 0, 1, 2), { shape: [batch, steps] });
const start = tensor(Int32Array.of(2, 0));
const lengths = tensor(Int32Array.of(5, 3));

/** One step of attention over a cache, as a program. */
function makeStep(layer: SelfAttention, joined: boolean, weights?: WeightCopies) {
  const at = new KeyValueCache([batch, 8, options.keyValueHeads, options.headDim]);
  const step = compile(
    (input: Tensor) => layer.forward(input, { rotary, positions, cache: { at, start, lengths, joined } }),
    { weights },
  );
  return { at, step };
}

it("gives what three products, two rotations and two writes give", async () => {
  const layer = new SelfAttention(options);
  const results = [];
  for (const joined of [false, true]) {
    const { at, step } = makeStep(layer, joined);
    const tensors = [await step(x), at.keys, at.values];
    results.push(await Promise.all(tensors.map(async (each) => [...((await each.data()) as Float32Array)])));
  }
  const [apart, together] = results as [number[][], number[][]];
  apart.forEach((values, i) => {
    expect(values.some((value) => value !== 0)).toBe(true);
    values.forEach((value, j) => {
      expect(together[i]![j]).toBeCloseTo(value, 5);
    });
  });
});

it("calls a projection that was put in another's place", async () => {
  class Doubled extends Linear {
    override forward(input: Tensor): Tensor {
      return super.forward(input).mul(2);
    }
  }
  const layer = new SelfAttention(options);
  const [outputs, inputs] = layer.vProj.weight.shape as [number, number];
  const before = await (await makeStep(layer, true).step(x)).data();
  layer.vProj = new Doubled(inputs, outputs, { weight: layer.vProj.weight, bias: false });
  const { step } = makeStep(layer, true);
  expect(step.inspect(x)).not.toMatch(/rope_to_cache_/);
  // Attention and the output projection are linear in the values; the cache held zeros elsewhere.
  const after = await (await step(x)).data();
  before.forEach((value, i) => {
    expect(after[i]).toBeCloseTo(2 * value, 5);
  });
});

it("reads copies of weights that lie one after another", async () => {
  const layer = new SelfAttention(options);
  using copies = new WeightCopies();
  const { step } = makeStep(layer, true, copies);
  const program = step.inspect(x);
  expect(program).not.toMatch(/concat/);
  expect(program.match(/matmul/g)).toHaveLength(2);
  expect(program.match(/rope_to_cache_/g)).toHaveLength(1);
  const before = (await (await step(x)).data()) as Float32Array;
  // A copy is of the moment it was made, or refreshed: of all the weights in it.
  layer.vProj.weight.assign(layer.vProj.weight.mul(2));
  expect(await (await step(x)).data()).toEqual(before);
  await copies.refresh();
  const after = (await (await step(x)).data()) as Float32Array;
  before.forEach((value, i) => {
    expect(after[i]).toBeCloseTo(2 * value, 4);
  });
});
