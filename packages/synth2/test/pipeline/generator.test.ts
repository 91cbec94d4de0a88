import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { checkpointSteps, maskSchedule } from "@trefoil/core";
import { describe, expect, it } from "vitest";
import {
  Choices,
  encodeCaption,
  encodePairs,
  hideCodes,
  keptConditions,
  MaskedSampler,
  openGenerator,
  pictureSeed,
  requireSameTokenizer,
  samplingSchema,
  VqImageTokenizer,
} from "../../src/index.js";
import { temporaryFolder } from "../folder.js";
import {
  generatorSizes,
  smallText,
  stopAtCheckpoint,
  trainSmallGenerator,
  trainSmallTokenizer,
  world,
} from "./small.js";

describe("masking", () => {
  it("hides the share that the schedule gives, and its weights are a mean", () => {
    const codes = Int32Array.from({ length: 3 * 16 }, (_, i) => i % 7);
    for (const average of ["picture", "batch"] as const) {
      const options = { maskToken: 7, schedule: "cosine", average } as const;
      const { tokens, targets, weights } = hideCodes(codes, 16, new Choices(1), options);
      expect(weights.reduce((a, b) => a + b)).toBeCloseTo(1, 5);
      tokens.forEach((token, i) => {
        expect(token === 7 ? targets[i] : token).toBe(codes[i]);
        expect(weights[i]! > 0).toBe(token === 7);
      });
    }
    const half = hideCodes(codes, 16, new Choices(1), {
      maskToken: 7,
      schedule: "cosine",
      average: "batch",
      share: () => 0.5,
    });
    expect(half.tokens.filter((token) => token === 7)).toHaveLength(24);
    // E γ(u) of the cosine schedule is 2 / π.
    let hidden = 0;
    const choices = new Choices(2);
    for (let i = 0; i < 500; i++) {
      const options = { maskToken: 7, schedule: "cosine", average: "batch" } as const;
      hidden += hideCodes(codes, 16, choices, options).tokens.filter((token) => token === 7).length;
    }
    expect(hidden / 500 / 48).toBeCloseTo(2 / Math.PI, 1);
    expect(maskSchedule("cosine", 0)).toBe(1);
  });

  it("drops a tenth of the captions and keeps nine tenths", () => {
    const kept = keptConditions(20_000, 0.1, new Choices(1));
    expect(kept.reduce((a, b) => a + b) / 20_000).toBeCloseTo(0.9, 2);
  });
});

describe("a generator", () => {
  it("learns captions, draws what depends on the seed alone, and paints in around given codes", async () => {
    const folder = await temporaryFolder();
    const [tokenizer, output] = [join(folder, "tokenizer"), join(folder, "generator")];
    await trainSmallTokenizer(tokenizer, 20);
    const short = await trainSmallGenerator(tokenizer, join(folder, "short"), 2);
    const trained = await trainSmallGenerator(tokenizer, output, 60);
    expect(trained.evaluation!.bitsPerCode).toBeLessThan(short.evaluation!.bitsPerCode! - 0.2);
    const { model, text, hash, tokenizerHash } = await openGenerator(output);
    expect(hash).toBe(trained.hash);
    expect(() => requireSameTokenizer("it", tokenizerHash, "another")).toThrow(/belongs to the image tokenizer/);
    expect(() => encodeCaption("word ".repeat(100), text, 40)).toThrow(/longer than the 40 tokens/);

    const captions = ["a red circle", "two blue squares", "a small star", "a ring on the left", "a red circle"].map(
      (words) => encodeCaption(words, text, 40),
    );
    const seeds = captions.map((_, i) => pictureSeed(7, `picture ${i}`));
    for (const order of ["confidence", "random", "halton"] as const) {
      const options = samplingSchema.parse({ steps: 5, order, topK: 16, temperature: 1 });
      const wide = await new MaskedSampler(model, options, 5).sample({ captions, seeds });
      const reversed = { captions: captions.toReversed(), seeds: seeds.toReversed() };
      const narrow = await new MaskedSampler(model, options, 2).sample(reversed);
      const pictures = (codes: Int32Array) => captions.map((_, i) => [...codes.subarray(16 * i, 16 * (i + 1))]);
      expect(pictures(narrow).reverse()).toEqual(pictures(wide));
      // One caption, two seeds.
      expect(pictures(wide)[0]).not.toEqual(pictures(wide)[4]);
      expect(wide.every((code) => code >= 0 && code < 32)).toBe(true);
    }

    const sampler = new MaskedSampler(model, samplingSchema.parse({ steps: 4 }), 2);
    const given = Int32Array.from({ length: 32 }, (_, i) => (i % 3 === 0 ? i % 32 : -1));
    const settled: number[] = [];
    const painted = await sampler.sample({
      captions: captions.slice(0, 2),
      seeds: seeds.slice(0, 2),
      given,
      onStep: ({ tokens, sampled, step, steps }) => {
        settled.push(tokens.filter((code) => code >= 0).length);
        given.forEach((code, i) => {
          if (code >= 0) expect([tokens[i], sampled[i]]).toEqual([code, code]);
        });
        expect(steps).toBe(4);
        expect(step).toBe(settled.length);
      },
    });
    given.forEach((code, i) => {
      if (code >= 0) expect(painted[i]).toBe(code);
    });
    expect(settled).toEqual(settled.toSorted((a, b) => a - b));
    expect(settled.at(-1)).toBe(32);

    const stopping = new AbortController();
    const onStep = () => stopping.abort(new Error("enough"));
    const stopped = sampler.sample({ captions, seeds, signal: stopping.signal, onStep });
    await expect(stopped).rejects.toThrow("enough");
    await expect(sampler.sample({ captions, seeds: [] })).rejects.toMatchObject({ code: "SYNTH_OPTIONS" });
    model.dispose();

    // As an earlier version wrote it, whose text encoder was another one.
    const config = join(output, "config.json");
    const written = JSON.parse(await readFile(config, "utf8"));
    delete written.architecture.textWindow;
    await writeFile(config, JSON.stringify(written));
    const refused = { code: "SYNTH_MODEL", message: expect.stringContaining("train the generator anew") };
    await expect(openGenerator(output)).rejects.toMatchObject(refused);
  });

  it("stopped and resumed ends with the same weights", async () => {
    const folder = await temporaryFolder();
    const tokenizer = join(folder, "tokenizer");
    await trainSmallTokenizer(tokenizer, 4);
    const whole = await trainSmallGenerator(tokenizer, join(folder, "whole"), 40);
    const output = join(folder, "stopped");
    using stop = stopAtCheckpoint(`${output}-run`);
    const { signal } = stop;
    expect((await trainSmallGenerator(tokenizer, output, 40, { signal })).completed).toBe(false);
    expect(await checkpointSteps(`${output}-run`)).not.toHaveLength(0);
    // As many pairs with the same captions, of other pictures.
    using images = await VqImageTokenizer.open(tokenizer);
    const { codes, captions } = await encodePairs(world, images, await smallText(), generatorSizes.maxTextTokens);
    const pairs = { codes: codes.map((code) => (code + 1) % images.codebookSize), captions };
    await expect(trainSmallGenerator(tokenizer, output, 40, { resume: true, pairs })).rejects.toMatchObject({
      code: "TREFOIL_RESUME",
    });
    expect((await trainSmallGenerator(tokenizer, output, 40, { resume: true })).hash).toBe(whole.hash);
  });
});
