import { expect, it } from "vitest";
import { AdamW, compile, cosineSchedule, InvalidUseError, Parameter, type Tensor, tensor } from "../../src/index.js";

it("AdamW takes each parameter once: twice, its gradient would count twice in the norm", () => {
  const shared = new Parameter([2]);
  expect(() => new AdamW([shared, new Parameter([2]), shared], { learningRate: 0.1 })).toThrow(InvalidUseError);
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
