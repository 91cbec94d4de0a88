import { describe, expect, test } from "vitest";
import { fromCounts, holm, pairedTest, signFlipP, signTestP, wilsonInterval, winTieLose } from "../../src/index.js";
import { expectClose } from "./numbers.js";

describe("statistics (§4.3)", () => {
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
});
