import { describe, expect, test } from "vitest";
import {
  adaptKlCoefficient,
  explainedVariance,
  generalisedAdvantages,
  klEstimators,
  mean,
  shapedRewards,
  variance,
  whiten,
} from "../../src/index.js";
import { makeExperience } from "../../src/stages/ppo/experience.js";
import type { Measured } from "../../src/stages/ppo/update.js";
import { ppoSettings } from "../stages/small.js";
import { expectClose } from "./numbers.js";

const logProbs = [-1.2, -0.7, -2, -0.3];
const reference = [-1, -0.9, -1.6, -0.5];
const values = [0.5, 0.4, 0.3, 0.2];

describe("KL to the reference", () => {
  const of = (name: keyof typeof klEstimators) => logProbs.map((p, t) => klEstimators[name](p, reference[t]!));
  const total = (numbers: number[]) => numbers.reduce((a, b) => a + b, 0);
  test("estimators", () => {
    expectClose(of("k1"), [-0.2, 0.2, -0.4, 0.2]);
    expectClose([total(of("k1")), total(of("k1")) / 4, total(of("k2"))], [-0.2, -0.05, 0.14]);
    expectClose(of("k3"), [0.021402758, 0.018730753, 0.091824698, 0.018730753]);
    expectClose([total(of("k3"))], [0.150688962]);
  });
  test("a log-ratio is cut before it is exponentiated", () => {
    expect(klEstimators.k3(-1000, 0)).toBeCloseTo(Math.expm1(20) - 20, 0);
  });
  test("rewards per token", () => {
    expectClose(shapedRewards(logProbs, reference, 0.9, 0.05), [0.01, -0.01, 0.02, 0.89]);
    expectClose(shapedRewards(logProbs, reference, 0.75, 0.05), [0.01, -0.01, 0.02, 0.74]);
    expectClose(
      [total(shapedRewards(logProbs, reference, 0.9, 0.05)), total(shapedRewards(logProbs, reference, 0.75, 0.05))],
      [0.91, 0.76],
    );
    expectClose([total(shapedRewards(logProbs, reference, 0, 0.05))], [0.01]);
  });
  test("the score goes to the last real token", () => {
    expectClose(shapedRewards(logProbs, reference, 1, 0, 2), [0, 1]);
  });
  test("adaptive coefficient", () => {
    const options = { target: 6, horizon: 10000 };
    let coefficient = 0.15;
    const seen = [12, 6.6, 3, 6].map((kl) => (coefficient = adaptKlCoefficient(coefficient, kl, 64, options)));
    expectClose(seen, [0.150192, 0.15028812288, 0.1500957540827, 0.1500957540827], 1e-12);
  });
});

describe("advantages", () => {
  const contrast = [0.01, -0.01, 0.02, 0.74];
  const vanilla = [0.01, -0.01, 0.02, 0.89];
  const cases: [string, number[], number, number, number[], number[]][] = [
    ["terminal", [0, 0, 0, 1], 1, 0.95, [0.40065, 0.527, 0.66, 0.8], [0.90065, 0.927, 0.96, 1]],
    ["discounted", [0, 0, 0, 1], 0.99, 0.9, [0.289129515, 0.4412228, 0.6108, 0.8], [0.789129515, 0.8412228, 0.9108, 1]],
    ["Monte Carlo", [0, 0, 0, 1], 1, 1, [0.5, 0.6, 0.7, 0.8], [1, 1, 1, 1]],
    ["one step", [0, 0, 0, 1], 1, 0, [-0.1, -0.1, -0.1, 0.8], [0.4, 0.3, 0.2, 1]],
    ["contrast", contrast, 1, 0.95, [0.1962825, 0.30135, 0.433, 0.54], [0.6962825, 0.70135, 0.733, 0.74]],
    [
      "contrast, discounted",
      contrast,
      0.99,
      0.9,
      [0.122186662, 0.24263374, 0.39914, 0.54],
      [0.622186662, 0.64263374, 0.69914, 0.74],
    ],
    ["vanilla", vanilla, 1, 0.95, [0.32488875, 0.436725, 0.5755, 0.69], [0.82488875, 0.836725, 0.8755, 0.89]],
    [
      "vanilla, discounted",
      vanilla,
      0.99,
      0.9,
      [0.228288858, 0.36171589, 0.53279, 0.69],
      [0.728288858, 0.76171589, 0.83279, 0.89],
    ],
  ];
  test.each(cases)("%s", (_, rewards, gamma, lambda, advantages, returns) => {
    const result = generalisedAdvantages(rewards, values, gamma, lambda);
    expectClose(result.advantages, advantages);
    expectClose(result.returns, returns);
  });

  test("contrast with a critic shifted by the baseline is plain PPO", () => {
    const shifted = values.map((v) => v - 0.15);
    const plain = generalisedAdvantages(vanilla, values, 1, 0.95).advantages;
    expectClose(generalisedAdvantages(contrast, shifted, 1, 0.95).advantages, plain, 1e-15);
  });

  test("whitening", () => {
    const v = [0.61, 0.5, -0.2, 0.3, 1.1, -0.4];
    const expected = [0.580614029, 0.361639595, -1.031834075, -0.036495739, 1.556045599, -1.429969409];
    expectClose([mean(v), variance(v), variance(v, 1)], [0.318333333, 0.252347222, 0.302816667]);
    expectClose(whiten(v), expected);
    expectClose(
      whiten(v, false),
      expected.map((x) => x + 0.318333333),
    );
  });

  test("whitening that keeps the mean: the grid of the Hugging Face blog", () => {
    const grid = Array.from({ length: 9 }, (_, i) => 1.2 + 0.1 * i);
    const expected = [
      0.050806778, 0.438105083, 0.825403389, 1.212701694, 1.6, 1.987298306, 2.374596611, 2.761894917, 3.149193222,
    ];
    expectClose(whiten(grid, false), expected, 5e-8);
  });

  test("responses left out of the loss do not shift the advantages of the others", () => {
    const measured = (rows: number[][]): Measured => ({
      logProbs: rows.map((row) => Float32Array.from(row, () => -1)),
      referenceLogProbs: rows.map((row) => Float32Array.from(row, () => -1)),
      entropies: rows.map((row) => new Float32Array(row.length)),
      values: rows.map((row) => new Float32Array(row.length)),
    });
    const advantagesOf = (rewards: number[], counts: boolean[], whitenRewards: boolean) => {
      const settings = ppoSettings({ maskTruncated: true, whitenRewards });
      const rows = rewards.map(() => [0, 0]);
      const { targets } = makeExperience(measured(rows), rewards, counts, 0, settings);
      return targets.flatMap(({ advantages }, i) => (counts[i] ? [...advantages] : []));
    };
    for (const whitenRewards of [false, true]) {
      const alone = advantagesOf([1, 2, 4], [true, true, true], whitenRewards);
      expect(mean(alone)).toBeCloseTo(0, 6);
      expect(advantagesOf([1, -100, 2, 4], [true, false, true, true], whitenRewards)).toEqual(alone);
    }
    expect(advantagesOf([1], [false], true)).toEqual([]);
  });

  test("explained variance", () => {
    const returns = [0.9, 0.7, 0.6, 0.55];
    expectClose(
      [explainedVariance(returns, values), explainedVariance(returns, [0.8, 0.35, 0, 0.25])],
      [0.904347826, -0.765217391],
    );
  });
});
