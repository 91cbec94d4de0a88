import { describe, expect, it } from "vitest";
import {
  AdamW,
  compile,
  cosineSchedule,
  crossEntropy,
  InitialValues,
  Linear,
  linearSchedule,
  Module,
  manualSeed,
  RandomGenerator,
  Sequential,
  type Tensor,
  tensor,
  valueAndGrad,
} from "../../src/index.js";

describe("modules", () => {
  it("names parameters by path in snake case", () => {
    class Inner extends Module {
      readonly gateProj = new Linear(2, 3);
    }
    class Outer extends Module {
      readonly layers = [new Inner(), new Inner()];
      readonly tied = this.layers[0]!.gateProj.weight;
    }
    expect([...new Outer().namedParameters().keys()]).toEqual([
      "layers.0.gate_proj.weight",
      "layers.0.gate_proj.bias",
      "layers.1.gate_proj.weight",
      "layers.1.gate_proj.bias",
    ]);
  });

  it("is disposed when it goes out of scope", async () => {
    const inputs = tensor([[1, 2, 3, 4, 5, 6, 7, 8]]);
    let left: Sequential;
    {
      using layers = new Sequential(new Linear(8, 8), new Linear(8, 8, { bias: false }));
      await layers.forward(inputs).data();
      left = layers;
    }
    for (const parameter of left.parameters()) await expect(parameter.data()).rejects.toThrow(/disposed/);
  });

  it("starts from the same weights for the same seed", async () => {
    manualSeed(3);
    const a = await new Linear(8, 8).weight.data();
    manualSeed(3);
    const b = await new Linear(8, 8).weight.data();
    expect([...a]).toEqual([...b]);
    const drawn = new InitialValues(1).normal([20_000], 2);
    const mean = drawn.reduce((x, y) => x + y, 0) / drawn.length;
    const variance = drawn.reduce((x, y) => x + (y - mean) ** 2, 0) / drawn.length;
    // Standard errors: 2 / sqrt(20000) = 0.014 and 4 sqrt(2 / 20000) = 0.04.
    expect(Math.abs(mean)).toBeLessThan(0.06);
    expect(Math.abs(variance - 4)).toBeLessThan(0.16);
  });
});

describe("training", () => {
  it("learns a function that no linear model can", async () => {
    manualSeed(1);
    const model = new Sequential(new Linear(2, 16), (x) => x.tanh(), new Linear(16, 2));
    const optimizer = new AdamW(model.parameters(), { learningRate: 0.05, weightDecay: 0 });
    const step = compile((x: Tensor, y: Tensor) => {
      const { value, grads } = valueAndGrad(() => crossEntropy(model.forward(x), y).loss, model.parameters());
      optimizer.apply(grads);
      return value;
    });
    const x = tensor([
      [0, 0],
      [0, 1],
      [1, 0],
      [1, 1],
    ]);
    const y = tensor(Int32Array.of(0, 1, 1, 0));
    const first = await (await step(x, y)).item();
    for (let i = 0; i < 200; i++) await step(x, y);
    const last = await (await step(x, y)).item();
    expect(first).toBeGreaterThan(0.5);
    expect(last).toBeLessThan(0.02);
    expect([...(await model.forward(x).argmax().data())]).toEqual([0, 1, 1, 0]);
  });

  it("leaves everything as it was when the gradient is not finite", async () => {
    const model = new Linear(2, 1, { bias: false });
    const optimizer = new AdamW(model.parameters(), { learningRate: 0.1 });
    const step = compile((x: Tensor) => {
      const { value, grads } = valueAndGrad(() => model.forward(x).sum(), model.parameters());
      const { gradientNorm } = optimizer.apply(grads);
      return { value, gradientNorm };
    });
    const before = [...(await model.weight.data())];
    for (const bad of [Number.NaN, Number.POSITIVE_INFINITY]) {
      const { gradientNorm } = await step(tensor([[1, bad]]));
      expect(Number.isFinite(await gradientNorm.item())).toBe(false);
      expect([...(await model.weight.data())]).toEqual(before);
    }
    await step(tensor([[1, 1]]));
    expect([...(await model.weight.data())]).not.toEqual(before);
  });

  it("follows its schedules", async () => {
    const options = { peak: 1, warmupSteps: 4, totalSteps: 12, floor: 0.1 };
    const rates = compile((step: Tensor) => [cosineSchedule(options)(step), linearSchedule(options)(step)]);
    for (let t = 1; t <= 14; t++) {
      const [cosine, linear] = await rates(tensor(t));
      const fall = Math.min(1, Math.max(0, (t - 4) / 8));
      const expectedCosine = t < 4 ? t / 4 : 0.1 + 0.45 * (1 + Math.cos(Math.PI * fall));
      const expectedLinear = t < 4 ? t / 4 : 1 - 0.9 * fall;
      expect(await cosine!.item()).toBeCloseTo(expectedCosine, 5);
      expect(await linear!.item()).toBeCloseTo(expectedLinear, 5);
    }
  });
});

describe("random numbers", () => {
  it("repeat for a seed, advance by step and differ by op", async () => {
    const draw = () => {
      const random = new RandomGenerator(42);
      const f = compile(() => [random.uniform([4]), random.uniform([4]), random.normal([4])]);
      return f;
    };
    const [a, b] = [draw(), draw()];
    const first = await Promise.all((await a()).map((x) => x.toArray()));
    expect(await Promise.all((await b()).map((x) => x.toArray()))).toEqual(first);
    expect(first[0]).not.toEqual(first[1]);
    expect(await Promise.all((await a()).map((x) => x.toArray()))).not.toEqual(first);
  });
});
