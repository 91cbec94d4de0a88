import { expect, it } from "vitest";
import { type CodedPairs, maskedEvaluation } from "../../src/generator/index.js";
import { MaskedGenerator } from "../../src/generator/masked-model.js";
import { hideCodes } from "../../src/generator/masking.js";
import { Choices } from "../../src/world/random.js";

const positions = 16;
const model = new MaskedGenerator(
  {
    ...{ width: 16, layers: 1, heads: 2, feedForward: 16, textWidth: 8, textLayers: 1, textWindow: 2 },
    ...{ maxTextTokens: 6, gridSize: 4, codes: 8, codeWidth: 4, vocabulary: 12 },
  },
  3,
);
// Nothing but its own bias: code 0 has probability 1/2, whatever is seen.
model.head.weight.set(new Float32Array(model.head.weight.size));
model.head.bias!.set(Float32Array.from({ length: 8 }, (_, code) => (code === 0 ? Math.log(7) : 0)));

/** So many pictures of code 0, and behind them some of code 1. */
const pairs = (zeros: number, ones: number): CodedPairs => ({
  codes: Int32Array.from({ length: (zeros + ones) * positions }, (_, i) => Number(i >= zeros * positions)),
  captions: Array.from({ length: zeros + ones }, () => [Int32Array.of(1, 2)]),
});

it("measures every picture, those of a last and shorter batch too", async () => {
  const measure = maskedEvaluation(model);
  const scores = await measure(pairs(40, 8));
  const mean = (40 * Math.log(2) + 8 * Math.log(14)) / 48;
  for (const name of ["nllHidden25", "nllHidden50", "nllHidden100", "loss"]) expect(scores[name]).toBeCloseTo(mean, 5);
  expect(scores.bitsPerCode).toBeCloseTo(mean / Math.LN2, 5);
  expect(scores.accuracyHidden50).toBeCloseTo(40 / 48, 5);
});

it("bits per code are of shares spread over the pictures, few as they are, not of pictures all hidden", async () => {
  const looking = new MaskedGenerator(model.architecture, 5);
  // What is seen counts for much.
  const weight = await looking.codeEmbed.weight.data();
  looking.codeEmbed.weight.set(Float32Array.from(weight, (value) => 8 * value));
  const { bitsPerCode, nllHidden100 } = await maskedEvaluation(looking)(pairs(4, 4));
  expect(Math.abs(bitsPerCode! - nllHidden100! / Math.LN2)).toBeGreaterThan(0.02);

  const shares = [0.25, 1, 0.5];
  const options = { maskToken: 8, schedule: "linear", average: "picture" } as const;
  const codes = new Int32Array(3 * positions);
  const { tokens } = hideCodes(codes, positions, new Choices(1), { ...options, share: (row) => shares[row]! });
  const hidden = shares.map((_, row) => tokens.subarray(row * positions, (row + 1) * positions));
  expect(hidden.map((row) => row.filter((token) => token === 8).length)).toEqual([4, 16, 8]);
});
