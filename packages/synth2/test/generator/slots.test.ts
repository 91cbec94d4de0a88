import { InitialValues, tensor } from "@trefoil/core";
import { describe, expect, it } from "vitest";
import { MaskedGenerator } from "../../src/generator/masked-model.js";
import { Rotary } from "../../src/generator/rotary.js";
import { joinTokens, slotsOf, splitCodes } from "../../src/generator/slots.js";
import { textBatch } from "../../src/generator/text.js";
import { MaskedSampler, pictureSeed, samplingSchema, UNKNOWN_CODE } from "../../src/sampling/index.js";

describe("codes of several codebooks", () => {
  const slots = slotsOf([3, 4]);

  it("are taken apart, the last book counting fastest, and put together again", () => {
    // 7 = 1 × 4 + 3: entry 1 of the first book, entry 3 of the second, which begins behind the 3 of the first.
    expect([...splitCodes(Int32Array.of(7, UNKNOWN_CODE, 0), slots)]).toEqual([1, 6, 7, 7, 0, 3]);
    const all = Int32Array.from({ length: 12 }, (_, i) => i);
    expect(joinTokens(splitCodes(all, slots), slots)).toEqual(all);
  });

  it("are unknown while one of their entries is hidden", () => {
    expect([...joinTokens(Int32Array.of(1, 7, 7, 6, 1, 6), slots, -5)]).toEqual([-5, -5, 7]);
  });

  it("stay themselves with one book", () => {
    const codes = Int32Array.of(4, 0, 2);
    expect(splitCodes(codes, slotsOf([5]))).toEqual(codes);
    expect(joinTokens(codes, slotsOf([5]))).toEqual(codes);
  });
});

describe("rotations", () => {
  it("leave products of queries and keys that depend on distances alone, along a caption and over a grid", async () => {
    const [queries, keys] = [1, 2].map((seed) => new InitialValues(seed).normal([8], 1));
    const products = async (rotary: Rotary, length: number) => {
      const turned = async (row: Float32Array) => {
        const rows = Float32Array.from({ length: length * 8 }, (_, i) => row[i % 8]!);
        return (await rotary.turn(tensor(rows, { shape: [1, length, 1, 8] })).data()) as Float32Array;
      };
      const [q, k] = [await turned(queries!), await turned(keys!)];
      return (i: number, j: number) => {
        let sum = 0;
        for (let c = 0; c < 8; c++) sum += q[i * 8 + c]! * k[j * 8 + c]!;
        return sum;
      };
    };
    const along = await products(Rotary.along(9, 8), 9);
    expect(along(1, 3)).toBeCloseTo(along(6, 8), 5);
    expect(Math.abs(along(1, 3) - along(3, 1))).toBeGreaterThan(1e-3);
    // A grid of 4 × 4: one row down and two columns on, from (0, 0) and from (2, 1).
    const over = await products(Rotary.over(4, 8), 16);
    expect(over(0, 6)).toBeCloseTo(over(9, 15), 5);
    // As far in the sequence, but not on the grid.
    expect(Math.abs(over(0, 6) - over(3, 9))).toBeGreaterThan(1e-3);
  });
});

describe("a generator for two codebooks", () => {
  const sizes = {
    width: 16,
    layers: 1,
    heads: 2,
    feedForward: 16,
    textWidth: 8,
    textLayers: 1,
    textWindow: 2,
    maxTextTokens: 6,
  };
  const model = new MaskedGenerator(
    { ...sizes, gridSize: 2, codes: 12, books: [3, 4], codeWidth: 4, vocabulary: 12 },
    3,
  );
  const captions = [Int32Array.of(1, 2), Int32Array.of(3)];
  const text = () => textBatch(captions, 6);

  it("gives each slot the entries of its own book, and its loss is their cross-entropy", async () => {
    const tokens = Int32Array.from({ length: 16 }, (_, i) => (i % 3 === 0 ? 7 : i % 2 === 0 ? 2 : 4));
    const shape = [2, 8];
    const input = tensor(tokens, { shape });
    const logits = (await model.logits(input, model.condition(text())).data()) as Float32Array;
    const targets = Int32Array.from(tokens, (token, i) => (token === 7 ? (i % 2 === 0 ? 1 : 5) : -1));
    const hidden = targets.filter((target) => target >= 0).length;
    const weights = Float32Array.from(targets, (target) => (target < 0 ? 0 : 1 / hidden));
    let [expected, smooth] = [0, 0];
    targets.forEach((target, i) => {
      const own = i % 2 === 0 ? [0, 1, 2] : [3, 4, 5, 6];
      for (let entry = 0; entry < 7; entry++) {
        if (!own.includes(entry)) expect(logits[i * 7 + entry]).toBeLessThan(-9000);
      }
      if (target < 0) return;
      const total = own.reduce((sum, entry) => sum + Math.exp(logits[i * 7 + entry]!), 0);
      const logProb = (entry: number) => logits[i * 7 + entry]! - Math.log(total);
      expected -= weights[i]! * logProb(target);
      for (const entry of own) smooth -= (weights[i]! * logProb(entry)) / own.length;
    });
    const batch = { tokens: input, targets: tensor(targets, { shape }), weights: tensor(weights, { shape }) };
    expect(await model.loss(text(), batch, 0).loss.item()).toBeCloseTo(expected, 5);
    // Label smoothing spreads over the entries of the slot's own book.
    const { loss, likelihood } = model.loss(text(), batch, 0.2);
    expect(await likelihood.item()).toBeCloseTo(expected, 5);
    expect(await loss.item()).toBeCloseTo(0.8 * expected + 0.2 * smooth, 5);
  });

  it.each(["confidence", "halton"] as const)("draws whole codes and keeps given ones, in %s order", async (order) => {
    const given = Int32Array.of(11, -1, -1, 5, -1, -1, 0, -1);
    const sampler = new MaskedSampler(model, samplingSchema.parse({ steps: 5, order }), 2);
    const seeds = captions.map((_, i) => pictureSeed(1, `${i}`));
    const settled: number[] = [];
    const out = await sampler.sample({
      captions,
      seeds,
      given,
      onStep: ({ tokens }) => void settled.push(tokens.filter((code) => code !== UNKNOWN_CODE).length),
    });
    expect(out.every((code) => code >= 0 && code < 12)).toBe(true);
    given.forEach((code, i) => {
      if (code !== UNKNOWN_CODE) expect(out[i]).toBe(code);
    });
    expect(settled).toEqual(settled.toSorted((a, b) => a - b));
    expect(settled[0]).toBeLessThan(8);
  });
});
