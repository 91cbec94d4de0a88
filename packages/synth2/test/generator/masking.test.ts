import { describe, expect, it } from "vitest";
import { hideCodes, keptConditions } from "../../src/generator/masking.js";
import { Choices } from "../../src/world/random.js";

describe("condition dropout", () => {
  it("keeps the text on nine of ten, not on one of ten", () => {
    const kept = keptConditions(20_000, 0.1, new Choices(1, 2));
    const share = kept.reduce((sum, value) => sum + value, 0) / kept.length;
    // Four standard deviations of a share of 20,000.
    expect(Math.abs(share - 0.9)).toBeLessThan(4 * Math.sqrt(0.09 / 20_000));
  });

  it("keeps every text at 0", () => {
    expect(keptConditions(100, 0, new Choices(1)).every((value) => value === 1)).toBe(true);
  });
});

describe("hidden codes", () => {
  const positions = 64;
  const codes = Int32Array.from({ length: 400 * positions }, (_, i) => i % 32);

  it("hides 2/π of the codes on average under the cosine schedule, one at least", () => {
    const choices = new Choices(3, 4);
    const { tokens, targets, weights } = hideCodes(codes, positions, choices, {
      maskToken: 32,
      schedule: "cosine",
      average: "picture",
    });
    let hidden = 0;
    for (let at = 0; at < codes.length; at += positions) {
      const row = tokens.subarray(at, at + positions).filter((token) => token === 32).length;
      expect(row).toBeGreaterThanOrEqual(1);
      hidden += row;
    }
    // The share of a picture has standard deviation 0.31.
    expect(Math.abs(hidden / codes.length - 2 / Math.PI)).toBeLessThan((4 * 0.31) / Math.sqrt(400));
    tokens.forEach((token, i) => {
      if (token === 32) expect(targets[i]).toBe(codes[i]);
      else expect([token, targets[i], weights[i]]).toEqual([codes[i], -1, 0]);
    });
    expect(weights.reduce((a, b) => a + b, 0)).toBeCloseTo(1, 5);
  });

  it("weighs all hidden codes alike over the batch when asked", () => {
    const { weights } = hideCodes(codes, positions, new Choices(5), {
      maskToken: 32,
      schedule: "linear",
      average: "batch",
    });
    const values = new Set(weights.filter((weight) => weight > 0));
    expect(values.size).toBe(1);
    expect(weights.reduce((a, b) => a + b, 0)).toBeCloseTo(1, 5);
  });
});
