import { join } from "node:path";
import { describe, expect, it } from "vitest";
import {
  measureFaithfulness,
  openDataset,
  openGenerator,
  samplingSchema,
  VqImageTokenizer,
  WorldDataset,
} from "../../src/index.js";
import { temporaryFolder } from "../folder.js";
import { trainSmallGenerator, trainSmallTokenizer } from "../pipeline/small.js";

describe("faithfulness", () => {
  it("judges true pictures, reconstructions and generated pictures against the same captions", async () => {
    const folder = await temporaryFolder();
    const [images, drawing] = [join(folder, "tokenizer"), join(folder, "generator")];
    await trainSmallTokenizer(images, 2);
    await trainSmallGenerator(images, drawing, 1);
    using tokenizer = await VqImageTokenizer.open(images);
    const generator = await openGenerator(drawing);
    // Pictures are judged at their own size; the tokenizer's of 16 pixels are too small for the judge.
    const data = new WorldDataset({ world: "small", split: "test", length: 70, size: 16 });
    const sampling = samplingSchema.parse({ steps: 2 });
    const found = await measureFaithfulness({ data, tokenizer, generator, sampling, seed: 0 });
    expect(found.pictures).toBe(70);
    expect(found.original.grammatical).toBe(1);
    expect(found.original.accuracy.place).toBeGreaterThan(0.9);
    // Two steps of training draw nothing that could be said.
    expect(found.generated!.exact).toBeLessThan(0.1);
    expect(await measureFaithfulness({ data, tokenizer, generator, sampling, seed: 0 })).toEqual(found);
    const unknown = {
      length: 1,
      size: 16,
      get: async () => ({ id: "a", image: new Uint8Array(768), captions: ["a"] }),
    };
    await expect(measureFaithfulness({ data: unknown, tokenizer, sampling, seed: 0 })).rejects.toMatchObject({
      code: "SYNTH_DATA",
    });
  });

  it("opens both worlds by name", async () => {
    await using small = await openDataset("small-world:balanced:9:4", 54);
    await using full = await openDataset("world:balanced:9:4", 54);
    expect(small.hash).not.toBe(full.hash);
    expect(small.dataset).toMatchObject({ length: 9, size: 54 });
    await expect(openDataset("small-world:some:9")).rejects.toMatchObject({ code: "SYNTH_OPTIONS" });
  });
});
