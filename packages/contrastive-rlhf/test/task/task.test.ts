import { describe, expect, test } from "vitest";
import { bestGold, gold, mean, taskDemonstrations, taskPreferences, taskPrompts } from "../../src/index.js";

describe("built-in task", () => {
  test("true quality", () => {
    expect(gold("bghj=", "jbgh", true)).toBe(bestGold);
    expect(gold("bghj=", "bgh", true)).toBeCloseTo(1.5, 12);
    expect(gold("bghj=", "jbgh", false)).toBe(2);
    expect(gold("bghj=", "jj", true)).toBeCloseTo(0.5 + 0.5 - 0.25, 12);
    expect(gold("bghj=", "ab", true)).toBeCloseTo(0.5 - 0.35, 12);
    expect(gold("bghj=", "", true)).toBe(0);
  });

  test("prompts are different and held-out ones apart; the same seed gives the same data", () => {
    const { training, heldOut } = taskPrompts(200, 100, 4);
    expect(new Set([...training, ...heldOut]).size).toBe(300);
    expect(taskPrompts(200, 100, 4).training).toEqual(training);
    expect(taskPrompts(200, 100, 5).training).not.toEqual(training);
    const clean = taskDemonstrations(training, 0, 1).map(({ prompt, completion }) => gold(prompt, completion, true));
    const noisy = taskDemonstrations(training, 0.6, 1).map(({ prompt, completion }) => gold(prompt, completion, true));
    expect(mean(clean)).toBeGreaterThan(mean(noisy) + 0.5);
  });

  test("preferences follow quality through noise", () => {
    const pair = {
      prompt: "bghj=",
      responses: [
        { text: "jbgh", ended: true },
        { text: "bgh", ended: true },
      ],
    } as const;
    const rate = (sharpness: number, flips: number) =>
      mean(
        taskPreferences(
          Array.from({ length: 4000 }, () => pair),
          sharpness,
          flips,
          2,
        ).map(({ chosen }) => Number(chosen === "jbgh")),
      );
    // Four standard errors of 4000 draws are 0.03.
    const p = 1 / (1 + Math.exp(-1));
    expect(Math.abs(rate(1, 0) - p)).toBeLessThan(0.03);
    expect(Math.abs(rate(1, 0.3) - (0.7 * p + 0.3 * (1 - p)))).toBeLessThan(0.03);
  });
});
