import { compile, InitialValues, RandomGenerator, type Tensor, tensor } from "@trefoil/core";
import { describe, expect, it } from "vitest";
import {
  architectureSchema,
  Codebook,
  CodebookUsage,
  imagesTensor,
  TokenizerModel,
  VqImageTokenizer,
} from "../../src/tokenizer/index.js";
import { coloursOf } from "../../src/tokenizer/network.js";

const size = 12;
const model = (some: object) =>
  new TokenizerModel(
    architectureSchema.parse({
      ...{ imageSize: size, patchSize: 2, channels: [8, 8], groups: 2, codes: 6, codeWidth: 4, ...some },
    }),
    1,
  );
const noise = new InitialValues(5).uniform([1, size, size, 3], 0.5);
const grid = size / 4;

/** Changes one channel (or all) of the patch of 4 × 4 pixels in the corner. */
function changed(channel?: number): Float32Array {
  const values = noise.slice();
  for (let i = 0; i < values.length; i++) {
    const [row, column] = [Math.floor(i / (3 * size)), Math.floor(i / 3) % size];
    if (row < 4 && column < 4 && (channel === undefined || i % 3 === channel)) values[i] = 0.9 - values[i]!;
  }
  return values;
}

describe("codes that see their patch alone", () => {
  const moved = async (some: object) => {
    const tokenizer = await VqImageTokenizer.of(model(some), "none");
    const [before, after] = await Promise.all([noise, changed()].map((each) => tokenizer.encodeLatents(each, 1)));
    const width = tokenizer.dimension;
    return Array.from({ length: grid * grid }, (_, at) =>
      before!.subarray(at * width, (at + 1) * width).some((value, i) => value !== after![at * width + i]),
    );
  };

  it("do not change with the rest of the picture, with one codebook or two", async () => {
    const only = [true, ...new Array<boolean>(grid * grid - 1).fill(false)];
    expect(await moved({ codesSee: "patch" })).toEqual(only);
    expect(await moved({ codesSee: "patch", structureCodes: 5 })).toEqual(only);
  });

  it("do otherwise: the norms see the whole picture", async () => {
    expect(await moved({ codesSee: "picture" })).toEqual(new Array(grid * grid).fill(true));
  });
});

describe("a codebook of structure", () => {
  const made = model({ codesSee: "patch", structureCodes: 5, normaliseCodes: true });

  it("reads nothing of a picture's colours, brightness and contrast; the first codebook does", async () => {
    const tokenizer = await VqImageTokenizer.of(made, "none");
    // One pattern of light in two colours on two backgrounds.
    const pattern = new InitialValues(7).uniform([size * size], 0.5);
    const painted = (low: readonly number[], high: readonly number[]) =>
      Float32Array.from({ length: 3 * size * size }, (_, i) => {
        const share = pattern[Math.floor(i / 3)]! + 0.5;
        return low[i % 3]! + share * (high[i % 3]! - low[i % 3]!);
      });
    const red = await tokenizer.encodeLatents(painted([-0.7, -0.7, -0.6], [0.7, -0.6, -0.6]), 1);
    const cyan = await tokenizer.encodeLatents(painted([-0.9, -0.8, -0.9], [-0.5, 0.5, 0.6]), 1);
    let colour = 0;
    for (let at = 0; at < grid * grid; at++) {
      for (let i = 0; i < 4; i++) {
        colour = Math.max(colour, Math.abs(red[at * 8 + i]! - cyan[at * 8 + i]!));
        // The 1e-4 under the root is seen at the lower of the contrasts.
        expect(Math.abs(red[at * 8 + 4 + i]! - cyan[at * 8 + 4 + i]!)).toBeLessThan(0.01);
      }
    }
    expect(colour).toBeGreaterThan(0.05);
  });

  it("leaves to the first codebook the least and greatest value of each channel in a patch", async () => {
    const found = (await coloursOf(imagesTensor(noise, size), 4).data()) as Float32Array;
    for (let at = 0; at < grid * grid; at++) {
      const own = Array.from({ length: 3 }, (_, channel) =>
        Array.from({ length: 16 }, (_, i) => {
          const [row, column] = [4 * Math.floor(at / grid) + Math.floor(i / 4), 4 * (at % grid) + (i % 4)];
          return noise[(row * size + column) * 3 + channel]!;
        }),
      );
      const expected = [...own.map((values) => Math.min(...values)), ...own.map((values) => Math.max(...values))];
      expect([...found.subarray(at * 6, (at + 1) * 6)]).toEqual(expected);
    }
  });

  it("gives every position an entry of each: codes, embeddings and pictures agree with the model", async () => {
    const tokenizer = await VqImageTokenizer.of(made, "none");
    expect([tokenizer.codebookSize, tokenizer.dimension, tokenizer.positions]).toEqual([30, 8, 9]);
    const found = made.quantise(imagesTensor(noise, size));
    const codes = await tokenizer.encode(noise, 1);
    expect([...codes]).toEqual([...(await found.index.data())]);
    const rows = (await found.quantised.data()) as Float32Array;
    tokenizer.embed(codes).forEach((value, i) => {
      expect(value).toBeCloseTo(rows[i]!, 6);
    });
    const pictures = (await made.images(found.quantised).data()) as Float32Array;
    (await tokenizer.decode(codes, 1)).forEach((value, i) => {
      expect(value).toBeCloseTo(pictures[i]!, 5);
    });
    expect(() => tokenizer.embed(Int32Array.of(30))).toThrow("outside of the codebook");
  });
});

describe("revival", () => {
  it("prefers the latents that are represented worst", async () => {
    const codebook = new Codebook(4, 2, false, new InitialValues(1));
    codebook.weight.set(Float32Array.of(0, 0, 9, 9, 9, 9, 9, 9));
    const usage = new CodebookUsage(4, 2);
    // 31 latents near their code, one far away.
    const latents = new InitialValues(2).normal([32, 2], 0.01);
    latents.set([3, -3], 20);
    const random = new RandomGenerator(4);
    const settings = { learning: "ema", decay: 0.9, reviveBelow: 0.5, reviveCandidates: 512 } as const;
    const update = compile((z: Tensor, index: Tensor) =>
      usage.update(codebook, { latents: z, index }, settings, random, tensor(1)),
    );
    const { revived } = await update(tensor(latents, { shape: [32, 2] }), tensor(new Int32Array(32)));
    // The code of all latents lives; among 512 draws of 32 the far latent is missing once in 10⁷.
    expect(await revived.item()).toBe(3);
    expect([...(await codebook.weight.data())].slice(2)).toEqual([3, -3, 3, -3, 3, -3]);
  });
});
