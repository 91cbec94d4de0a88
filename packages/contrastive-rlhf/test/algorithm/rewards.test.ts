import { describe, expect, test } from "vitest";
import {
  aggregate,
  contrastUnderNoise,
  groupRelative,
  leaveOneOut,
  penalise,
  RewardShaper,
  RunningMoments,
  rewardVariance,
  softOverlong,
  standardDeviation,
  variance,
  varianceRatio,
} from "../../src/index.js";
import { expectClose, mulberry32, normals } from "./numbers.js";

const base = [0.2, -0.1, 0.5, 0];

describe("baselines of one prompt", () => {
  test("aggregations", () => {
    expectClose([aggregate(base)], [0.15]);
    expectClose([aggregate(base, { kind: "median" })], [0.1]);
    expectClose([aggregate(base, { kind: "max" }), aggregate(base, { kind: "min" })], [0.5, -0.1]);
    expectClose([aggregate(base, { kind: "trimmed-mean", fraction: 0.25 })], [0.1]);
    expectClose([aggregate(base, { kind: "quantile", q: 0.25 })], [-0.025]);
    expect(() => aggregate([])).toThrow(/at least one/);
    expect(() => aggregate(base, { kind: "trimmed-mean", fraction: 0.5 })).toThrow(/0\.5/);
  });

  test("shapers", () => {
    const compared = { score: 0.9, baseline: 0.15, references: base, scale: 1 };
    expectClose(new RewardShaper().shape([compared]), [0.75]);
    expectClose(new RewardShaper({ kind: "sigmoid" }).shape([compared]), [0.677220878]);
    expectClose(new RewardShaper({ kind: "log-sigmoid" }).shape([compared]), [-0.469367347]);
    expectClose(new RewardShaper({ kind: "clip", limit: 0.5 }).shape([compared]), [0.5]);
    expectClose([0.15 + 1.036433389 * standardDeviation(base)], [0.387476723]);
    // A z-score of the references, population and sample.
    expectClose([0.75 / standardDeviation(base), 0.75 / standardDeviation(base, 1)], [3.273268354, 2.834733548]);
  });

  test("the clip comes after the subtraction", () => {
    const shaper = new RewardShaper({ kind: "identity" }, 2);
    const far = (offset: number) => ({ score: 50 + offset, baseline: 49.5 + offset, references: [], scale: 1 });
    expect(shaper.shape([far(0), far(1000), { ...far(0), baseline: 0 }])).toEqual([0.5, 0.5, 2]);
  });

  test("running scale", () => {
    const moments = new RunningMoments();
    moments.add([1, 2, 3, 4]);
    moments.add([10, 12]);
    expectClose([moments.mean, moments.standardDeviation], [5.333333333, 4.546060566]);
    const scaled = new RewardShaper({ kind: "running-scale" });
    const rewards = (values: number[]) => values.map((score) => ({ score, baseline: 0, references: [], scale: 1 }));
    scaled.shape(rewards([1, 2, 3, 4]));
    const resumed = new RewardShaper({ kind: "running-scale" });
    resumed.restore(JSON.parse(JSON.stringify(scaled.state())));
    const second = scaled.shape(rewards([10, 12]));
    expectClose(second, [2.199706725, 2.63964807]);
    expect(resumed.shape(rewards([10, 12]))).toEqual(second);
    const normal = [10, 12].map((value) => (value - moments.mean) / moments.standardDeviation);
    expectClose(normal, [1.026529805, 1.46647115]);
  });

  test("running scale divides by the standard deviation of all that came so far, the batch included", () => {
    const shaper = new RewardShaper({ kind: "running-scale" });
    const uniform = mulberry32(11);
    const seen: number[] = [];
    for (const size of [2, 5, 1, 8, 3]) {
      const batch = Array.from({ length: size }, () => ({
        score: 4 * uniform(),
        baseline: uniform(),
        references: [],
        scale: 1,
      }));
      const differences = batch.map(({ score, baseline }) => score - baseline);
      seen.push(...differences);
      const mean = seen.reduce((sum, value) => sum + value, 0) / seen.length;
      const variance = seen.reduce((sum, value) => sum + (value - mean) ** 2, 0) / (seen.length - 1);
      expectClose(
        shaper.shape(batch),
        differences.map((value) => value / Math.sqrt(variance)),
        1e-12,
      );
    }
  });

  test("match-std gives contrast the spread of the scores", () => {
    const shaper = new RewardShaper({ kind: "match-std" });
    const scores = [1, 5, 9, 2];
    const shaped = shaper.shape(
      scores.map((score, i) => ({ score, baseline: 0.7 * score + (i % 2), references: [], scale: 1 })),
    );
    expectClose([standardDeviation(shaped, 1)], [standardDeviation(scores, 1)]);
  });

  test("on-policy relatives", () => {
    const group = [0.9, 0.3, -0.2, 0.6];
    expectClose(
      group.map((r, i) => r - leaveOneOut(group)[i]!),
      [0.666666667, -0.133333333, -0.8, 0.266666667],
    );
    const { baseline, scale } = groupRelative(group);
    expectClose(
      group.map((r) => r - baseline),
      [0.5, -0.1, -0.6, 0.2],
    );
    expectClose(
      group.map((r) => (r - baseline) * scale),
      [1.066001309, -0.213200262, -1.279201571, 0.426400524],
    );
    expectClose(
      group.map((r) => (r - baseline) / (standardDeviation(group) + 1e-6)),
      [1.230911879, -0.246182376, -1.477094255, 0.492364752],
    );
  });
});

describe("penalties", () => {
  test("soft overlong", () => {
    expect([3, 5, 6, 8, 9].map((length) => softOverlong(length, 8, 4))).toEqual(
      [-0, -0.25, -0.5, -1, -1].map((x) => x || 0),
    );
  });
  test("responses without an end", () => {
    const cut = { length: 8, ended: false };
    expect(penalise(2, cut)).toBe(2);
    expect(penalise(2, cut, { unended: { kind: "replace", value: -1 } })).toBe(-1);
    expect(penalise(2, cut, { unended: { kind: "subtract", value: 1 } })).toBe(1);
    expect(penalise(2, { ...cut, ended: true }, { unended: { kind: "replace", value: -1 } })).toBe(2);
    expect(penalise(2, cut, { overlong: { limit: 8, buffer: 4, weight: 3 } })).toBe(-1);
  });
});

describe("noise and variance", () => {
  test("binary noise: the constant cancels", () => {
    const cases = [
      [0.2, 0.1, 0.42, -0.28],
      [0.05, 0.05, 0.54, -0.36],
      [0.4, 0.3, 0.18, -0.12],
      [0.5, 0.5, 0, 0],
    ] as const;
    for (const [falsePositive, falseNegative, good, bad] of cases) {
      const noise = { falsePositive, falseNegative };
      expectClose([contrastUnderNoise(noise, 1, 0.4), contrastUnderNoise(noise, 0, 0.4)], [good, bad]);
    }
  });

  test("binary noise by Monte Carlo", () => {
    const uniform = mulberry32(1);
    const observe = (good: boolean) => (good ? (uniform() < 0.1 ? 0 : 1) : uniform() < 0.2 ? 1 : 0);
    let sum = 0;
    const draws = 400_000;
    for (let i = 0; i < draws; i++) sum += observe(true) - observe(uniform() < 0.4);
    // The standard error is 0.0009.
    expect(Math.abs(sum / draws - 0.42)).toBeLessThan(0.004);
  });

  test("variance ratio: the table", () => {
    const table = [
      [0.1, [1.818, 1.364, 1.136, 1.023, 0.966]],
      [0.5, [1.333, 1, 0.833, 0.75, 0.708]],
      [1, [1, 0.75, 0.625, 0.563, 0.531]],
      [2, [0.667, 0.5, 0.417, 0.375, 0.354]],
      [8, [0.222, 0.167, 0.139, 0.125, 0.118]],
    ] as const;
    for (const [rho, row] of table)
      expectClose(
        [1, 2, 4, 8, 16].map((k) => varianceRatio(rho, k)),
        row,
        6e-4,
      );
  });

  test("ρ and the ratio by Monte Carlo", () => {
    const [k, rho] = [4, 2];
    const gauss = normals(7);
    const rows: number[][] = [];
    const raw: number[] = [];
    const contrast: number[] = [];
    for (let prompt = 0; prompt < 40_000; prompt++) {
      const mean = Math.sqrt(rho) * gauss();
      const row = Array.from({ length: k }, () => mean + gauss());
      const fresh = mean + gauss();
      rows.push(row);
      raw.push(fresh);
      contrast.push(fresh - aggregate(row));
    }
    expect(Math.abs(rewardVariance(rows).rho - rho)).toBeLessThan(0.06);
    expect(Math.abs(variance(contrast) / variance(raw) - varianceRatio(rho, k))).toBeLessThan(0.01);
  });
});
