import { gradients, InitialValues, multiply, Parameter, sum, tensor } from "@trefoil/core";
import { describe, expect, it } from "vitest";
import { type GeneratorArchitecture, GeneratorTrainer } from "../../src/generator/index.js";
import { textBatch } from "../../src/generator/text.js";
import { WordWindow } from "../../src/generator/word-window.js";

const [batch, words, width, reach] = [2, 5, 4, 2];
const lengths = Int32Array.of(5, 3);
const shape = [batch, words, width];

/** x + Σ_d W_d norm(x)[at + d], in double precision; words at or beyond the length are not there. */
function expected(x: Float32Array, weight: Float32Array): number[] {
  const normed = (row: number, at: number): number[] => {
    const own = [...x.subarray((row * words + at) * width, (row * words + at + 1) * width)];
    const scale = 1 / Math.sqrt(own.reduce((total, value) => total + value ** 2, 0) / width + 1e-6);
    return own.map((value) => value * scale);
  };
  return Array.from(x, (value, i) => {
    const [row, at, out] = [Math.floor(i / (words * width)), Math.floor(i / width) % words, i % width];
    let mixed = value;
    for (let d = -reach; d <= reach; d++) {
      if (at + d < 0 || at + d >= lengths[row]!) continue;
      normed(row, at + d).forEach((each, k) => {
        mixed += weight[out * (2 * reach + 1) * width + (d + reach) * width + k]! * each;
      });
    }
    return mixed;
  });
}

describe("a window over words", () => {
  const window = new WordWindow(width, reach, new InitialValues(3));
  const values = new InitialValues(4).normal(shape, 1);

  it("adds each word's neighbours in their order, and nothing from beyond the caption", async () => {
    const weight = (await window.mix.weight.data()) as Float32Array;
    const found = await window.forward(tensor(values, { shape }), tensor(lengths)).data();
    expected(values, weight).forEach((value, i) => {
      expect(found[i]).toBeCloseTo(value, 5);
    });
  });

  it("has the gradient of its finite differences", async () => {
    const x = new Parameter(shape, { data: values });
    const direction = new InitialValues(5).normal(shape, 1);
    const weights = tensor(direction, { shape });
    const [gradient] = gradients(sum(multiply(window.forward(x, tensor(lengths)), weights)), [x]);
    const found = await gradient!.data();
    const weight = (await window.mix.weight.data()) as Float32Array;
    const loss = (at: Float32Array) => expected(at, weight).reduce((total, v, i) => total + v * direction[i]!, 0);
    for (let i = 0; i < values.length; i += 3) {
      const [above, below] = [values.slice(), values.slice()];
      above[i]! += 1e-3;
      below[i]! -= 1e-3;
      // Differences of steps of 1e-3 that single precision rounds.
      expect(found[i]).toBeCloseTo((loss(above) - loss(below)) / (above[i]! - below[i]!), 3);
    }
  });
});

describe("a generator of captions whose order matters", () => {
  const architecture: GeneratorArchitecture = {
    ...{ width: 32, layers: 1, heads: 2, feedForward: 32, textWidth: 32, textLayers: 1, textWindow: 1 },
    ...{ maxTextTokens: 4, gridSize: 2, codes: 4, codeWidth: 1, vocabulary: 12 },
  };
  it("learns which word stands beside which, from captions of the same words", async () => {
    // "a x b y" and "a y b x": the first code is what stands behind a, the second what stands behind b; the others are always 0.
    const captions: Int32Array[] = [];
    const codes: number[] = [];
    for (let x = 0; x < 4; x++) {
      for (let y = 0; y < 4; y++) {
        captions.push(Int32Array.of(4, x, 5, y), Int32Array.of(5, y, 4, x));
        codes.push(x, y, 0, 0, x, y, 0, 0);
      }
    }
    const trainer = new GeneratorTrainer(
      architecture,
      { schedule: "cosine", leastHidden: 0.9, average: "batch", dropCondition: 0, labelSmoothing: 0 },
      {
        ...{ steps: 200, batch: 32, learningRate: 1e-2, warmupSteps: 10, weightDecay: 0, clipNorm: 1, seed: 0 },
        ...{ checkpointEvery: 1000, keepCheckpoints: 1 },
      },
    );
    const pairs = { codes: Int32Array.from(codes), captions: captions.map((caption) => [caption]) };
    for (let step = 0; step < 200; step++) await trainer.step(pairs, step);
    const hidden = tensor(new Int32Array(codes.length).fill(4), { shape: [captions.length, 4] });
    const { accuracy } = trainer.model.loss(
      textBatch(captions, 4),
      {
        tokens: hidden,
        targets: tensor(Int32Array.from(codes), { shape: [captions.length, 4] }),
        weights: tensor(new Float32Array(codes.length).fill(1 / codes.length), { shape: [captions.length, 4] }),
      },
      0,
    );
    // Knowing the words but not their order: 0.5 + 0.5 (1 / 4 + 3 / 4 · 1 / 2).
    expect(await accuracy.item()).toBeGreaterThan(0.97);
    trainer.dispose();
  });
});
