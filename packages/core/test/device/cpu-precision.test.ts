import { afterEach, expect, it } from "vitest";
import {
  AdamW,
  compile,
  Device,
  defaultDevice,
  Llama,
  Mixtral,
  type Precision,
  setDefaultDevice,
  type Tensor,
  tensor,
  valueAndGrad,
} from "../../src/index.js";

const usual = defaultDevice();
afterEach(() => setDefaultDevice(usual));

const sizes = {
  ...{ vocabSize: 80, hiddenSize: 32, intermediateSize: 96, layers: 2, heads: 4, keyValueHeads: 2, headDim: 8 },
  ...{ rmsNormEps: 1e-5, ropeTheta: 1e4, tieWordEmbeddings: false, maxPositions: 32, initializerRange: 0.2 },
};
const models = {
  llama: () => new Llama(sizes, 1),
  mixtral: () => new Mixtral({ ...sizes, experts: 2, expertsPerToken: 2 }, 2),
};

// 192 rows: products of fewer are not rounded.
const shape = [8, 24];
const ids = Int32Array.from({ length: 192 }, (_, i) => (i * i + 3) % 80);
const batch = [
  tensor(ids, { shape }),
  tensor(
    ids.map((_, i) => ids[(i + 1) % 192]!),
    { shape },
  ),
] as const;

/** Losses and the last gradient norm. */
async function train(make: () => Llama | Mixtral, precision: Precision, threads = 2): Promise<number[]> {
  setDefaultDevice(new Device("cpu", { precision, threads }));
  using model = make();
  const optimizer = new AdamW(model.parameters(), { learningRate: 3e-3, clipNorm: 1 });
  const step = compile((tokens: Tensor, targets: Tensor) => {
    const { value, grads } = valueAndGrad(() => model.loss(tokens, targets).loss, model.parameters());
    return { loss: value, norm: optimizer.apply(grads).gradientNorm };
  });
  const seen: number[] = [];
  for (let i = 0; i < 20; i++) {
    const { loss, norm } = await step(...batch);
    seen.push(await loss.item());
    if (i === 19) seen.push(await norm.item());
  }
  return seen;
}

it.each(Object.entries(models))("a %s trains with products of rounded operands as in f32", async (_name, make) => {
  const expected = await train(make, "f32");
  const rounded = await train(make, "bf16-products");
  expect(expected[19]).toBeLessThan(expected[0]! - 0.5);
  expect(rounded[0]).not.toBe(expected[0]);
  // bf16 keeps 8 bits of each operand: 0.4 % of a term at most, of which most cancel; steps build on each other. Of ten seeds the losses
  // differ by 0.9 % at most, with attention in f32 as with its products rounded too.
  for (const [i, loss] of expected.slice(0, 20).entries())
    expect(Math.abs(rounded[i]! / loss - 1), `step ${i}`).toBeLessThan(1e-2);
  expect(await train(make, "bf16-products", 1)).toEqual(rounded);
});

it("says how it multiplies, and refuses what it does not have", () => {
  expect(new Device("cpu", { precision: "f32" }).info.isa).toMatch(/^\w+$/);
  expect(new Device("cpu", { precision: "bf16-products", isa: "scalar" }).info.isa).toBe(
    "scalar, bf16 by f32 arithmetic",
  );
  expect(() => new Device("cpu", { precision: "bf16" })).toThrow(
    'precision "bf16" is none of the CPU\'s: it must be "f32" or "bf16-products"',
  );
});
