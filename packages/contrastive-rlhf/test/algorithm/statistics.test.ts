import { describe, expect, test } from "vitest";
import {
  designEffect,
  fromCounts,
  holm,
  pairedTest,
  signFlipP,
  signTestP,
  wilsonInterval,
  winTieLose,
} from "../../src/index.js";
import { expectClose } from "./numbers.js";

describe("statistics", () => {
  test("paired t", () => {
    const result = pairedTest([0.42, 0.39, 0.45, 0.4, 0.44, 0.36]);
    expectClose([result.mean, result.standardDeviation, result.t], [0.41, 0.0334664, 30.00893], 5e-6);
    expectClose(result.interval, [0.374879, 0.445121], 5e-7);
    expectClose([result.p], [7.707e-7], 5e-11);
    expectClose([pairedTest([0.05, -0.02, 0.04, 0.01, 0.03, -0.01]).p], [0.205282], 5e-7);
  });
  test("sign flips", () => expect(signFlipP([0.05, -0.02, 0.04, 0.01, 0.03, -0.01])).toBe(0.25));
  test("sign test", () => expectClose([signTestP(6, 6), signTestP(8, 10)], [0.03125, 0.109375], 1e-12));
  test("Wilson", () => expectClose(wilsonInterval(60, 100), [0.502003, 0.690599], 5e-7));
  test("Holm", () => expectClose(holm([0.001, 0.02, 0.04, 0.3]), [0.004, 0.06, 0.08, 0.3], 1e-15));
  test("Holm keeps the order given", () =>
    expectClose(holm([0.3, 0.001, 0.04, 0.02]), [0.3, 0.004, 0.08, 0.06], 1e-15));
  test("win, tie, lose", () => {
    const { winRate, delta } = fromCounts(48, 20, 32);
    expectClose([winRate, delta], [0.58, 0.16], 1e-15);
    expect(winTieLose([1, 2, 3], [0, 2, 4])).toMatchObject({ win: 1, tie: 1, lose: 1, winRate: 0.5 });
  });
  test("values of one group count as fewer the more alike they are", () => {
    const values = Array.from({ length: 100 }, (_, i) => Number(Math.floor(i / 2) % 5 < 3));
    const groups = values.map((_, i) => Math.floor(i / 2));
    // Pairs of equal values: twice the variance, by the sums of squares of 50 groups and of 100 values.
    expectClose([designEffect(values, groups)], [2 * (50 / 49) * (99 / 100)], 1e-12);
    expect(designEffect(values, [...values.keys()])).toBeCloseTo(1, 12);
    // Pairs of opposites say more than independent values, which no interval takes credit for.
    expect(
      designEffect(
        groups.map((_, i) => i % 2),
        groups,
      ),
    ).toBe(1);
    expect(designEffect([1, 1, 1], [0, 0, 1])).toBe(1);
    expect(designEffect([], [])).toBe(1);
    expect(fromCounts(60, 0, 40, 2).interval).toEqual(fromCounts(30, 0, 20).interval);
    expect(fromCounts(60, 0, 40, 2)).toMatchObject({ win: 60, winRate: 0.6 });
  });
});
