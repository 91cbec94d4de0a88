import { expect, it } from "vitest";
import {
  AdamW,
  type AdamWGroup,
  clipGradients,
  compile,
  cosineSchedule,
  GradientAccumulator,
  InvalidUseError,
  Linear,
  ones,
  Parameter,
  ShapeError,
  type Tensor,
  tensor,
} from "../../src/index.js";

it("AdamW takes each parameter once: twice, its gradient would count twice in the norm", () => {
  const shared = new Parameter([2]);
  expect(() => new AdamW([shared, new Parameter([2]), shared], { learningRate: 0.1 })).toThrow(InvalidUseError);
});

it("AdamW needs something to train", () => {
  const frozen = new Linear(2, 2);
  for (const parameter of frozen.parameters()) parameter.trainable = false;
  expect(() => new AdamW(frozen.parameters(), { learningRate: 0.1 })).toThrow(/no parameters; are all of them frozen/);
});

it("a step with a gradient that is not finite does not count, for the bias correction or the schedule", async () => {
  const train = async (gradients: number[][]) => {
    const w = new Parameter([2], { data: Float32Array.of(1, -2) });
    const learningRate = cosineSchedule({ peak: 0.1, warmupSteps: 2, totalSteps: 5 });
    const optimizer = new AdamW([w], { learningRate });
    const step = compile((gradient: Tensor) => optimizer.apply([gradient]).learningRate);
    const rates: number[] = [];
    for (const gradient of gradients) rates.push(await (await step(tensor(gradient))).item());
    const state = [w, ...optimizer.namedState().values()].map(async (parameter) => [...(await parameter.data())]);
    return { rates, state: await Promise.all(state) };
  };
  const [a, b, c] = [
    [0.5, -1],
    [2, 0.25],
    [-1, 1],
  ];
  const whole = await train([a!, b!, c!]);
  const broken = await train([[Number.NaN, 1], a!, [1, Number.POSITIVE_INFINITY], b!, c!]);
  expect(broken.state).toEqual(whole.state);
  expect(whole.state[1]).toEqual([3]);
  // The rate that a skipped step reports is the one that the next has.
  expect(broken.rates).toEqual([0, 0, 1, 1, 2].map((i) => whole.rates[i]));
});

it("refuses options that would train nothing, or the wrong way; undefined is the default", async () => {
  const w = new Parameter([2]);
  for (const wrong of [
    { clipNorm: Number.NaN },
    { clipNorm: -1 },
    { clipNorm: 0 },
    { beta1: 1 },
    { beta2: -0.1 },
    { epsilon: Number.NaN },
    { weightDecay: -1 },
    { learningRate: Number.NaN },
  ])
    expect(() => new AdamW([w], { learningRate: 0.1, ...wrong }), JSON.stringify(wrong)).toThrow(InvalidUseError);

  const updated = async (options: object) => {
    const p = new Parameter([2, 1], { data: Float32Array.of(1, 2) });
    const optimizer = new AdamW([p], { learningRate: 0.1, ...options });
    await compile((gradient: Tensor) => optimizer.apply([gradient]))(tensor([[3], [4]]));
    return [...(await p.data())];
  };
  const unset = { beta1: undefined, beta2: undefined, epsilon: undefined, weightDecay: undefined, clipNorm: undefined };
  expect(await updated(unset)).toEqual(await updated({}));
});

it("a group has its own rate and decay, under the norm and the schedule of all", async () => {
  const start = [1, -2, 3];
  const gradient = [30, -40, 5];
  const train = async (make: (p: Parameter[]) => AdamW[], sharedNorm = false) => {
    const parameters = start.map((value) => new Parameter([1, 1], { data: Float32Array.of(value) }));
    const optimizers = make(parameters);
    const step = compile((...all: Tensor[]) => {
      const given = sharedNorm ? clipGradients(all, 1).gradients : all;
      for (const optimizer of optimizers)
        optimizer.apply(optimizer.parameters.map((parameter) => given[parameters.indexOf(parameter)]!));
    });
    for (let i = 0; i < 4; i++) await step(...gradient.map((value) => tensor([[value * (i + 1)]])));
    return await Promise.all(parameters.map(async (parameter) => (await parameter.data())[0]!));
  };
  const learningRate = cosineSchedule({ peak: 0.1, warmupSteps: 2, totalSteps: 6 });
  const grouped = await train(([a, b, c]) => [
    new AdamW([a!, b!, c!], {
      learningRate,
      groups: [
        { parameters: [b!], learningRateScale: 0.5, weightDecay: 0 },
        { parameters: [c!], weightDecay: 0.3 },
      ],
    }),
  ]);
  // Three optimisers that share the clipped norm.
  const apart = await train(
    ([a, b, c]) => [
      new AdamW([a!], { learningRate, clipNorm: Infinity }),
      new AdamW([b!], { learningRate: (at) => learningRate(at).mul(0.5), clipNorm: Infinity, weightDecay: 0 }),
      new AdamW([c!], { learningRate, clipNorm: Infinity, weightDecay: 0.3 }),
    ],
    true,
  );
  grouped.forEach((value, i) => {
    expect(value).toBeCloseTo(apart[i]!, 6);
    expect(value).not.toBe(start[i]);
  });
  const plain = await train((all) => [new AdamW(all, { learningRate })]);
  expect(plain[0]).toBe(grouped[0]);
  expect(plain[1]).not.toBe(grouped[1]);
  expect(plain[2]).not.toBe(grouped[2]);
});

it("refuses groups of parameters that it does not have, twice, or with rates out of range", () => {
  const [a, b] = [new Parameter([2]), new Parameter([2])];
  const make = (...groups: AdamWGroup[]) => new AdamW([a], { learningRate: 0.1, groups });
  expect(() => make({ parameters: [b] })).toThrow(InvalidUseError);
  expect(() => make({ parameters: [a] }, { parameters: [a] })).toThrow(InvalidUseError);
  expect(() => make({ parameters: [a], learningRateScale: -1 })).toThrow(/learningRateScale of a group is -1/);
  expect(() => make({ parameters: [a], weightDecay: Number.NaN })).toThrow(/weightDecay of a group/);
});

it("refuses gradients that are not the parameters', in number, order or shape", async () => {
  const parameters = [new Parameter([2, 3]), new Parameter([3])];
  const optimizer = new AdamW(parameters, { learningRate: 0.1 });
  using accumulator = new GradientAccumulator(parameters);
  for (const shapes of [[[3, 2], [3]], [[3], [2, 3]], [[2, 3]]]) {
    const gradients = shapes.map((shape) => ones(shape));
    await expect(compile(() => optimizer.apply(gradients))()).rejects.toThrow(ShapeError);
    await expect(compile(() => void accumulator.add(gradients, "first"))()).rejects.toThrow(ShapeError);
  }
  await expect(compile(() => optimizer.apply([ones([3, 2]), ones([3])]))()).rejects.toThrow(
    /gradient 0 has not its parameter's shape.*\[2, 3\], \[3, 2\]/,
  );
});
