import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { SafetensorsFile, trainBpe } from "@trefoil/core";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { MaskedGenerator, type OpenMaskedGenerator, openGenerator, saveGenerator } from "../../src/generator/index.js";
import { samplingSchema } from "../../src/sampling/index.js";
import { type CaptionRow, synthesize } from "../../src/synthesize/index.js";
import { architectureSchema, saveImageTokenizer, TokenizerModel, VqImageTokenizer } from "../../src/tokenizer/index.js";

const folder = mkdtempSync(join(tmpdir(), "synth2-synthesize-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const texts = ["a red circle", "a blue square", "two green rings", "a star", "a cross", "a ring", "a disc"];
const captions: CaptionRow[] = texts.map((caption, i) => ({ id: `caption-${i}`, caption }));
const sampling = samplingSchema.parse({ steps: 3 });
let tokenizer: VqImageTokenizer;
let generator: OpenMaskedGenerator;

beforeAll(async () => {
  const architecture = {
    imageSize: 8,
    patchSize: 2,
    channels: [8, 8],
    groups: 2,
    codes: 6,
    codeWidth: 3,
    structureCodes: 0,
  };
  await saveImageTokenizer(new TokenizerModel(architectureSchema.parse(architecture), 1), join(folder, "tokenizer"));
  tokenizer = await VqImageTokenizer.open(join(folder, "tokenizer"));
  const text = await trainBpe(texts, { vocabSize: 280 });
  const model = new MaskedGenerator({
    width: 8,
    layers: 1,
    heads: 1,
    feedForward: 8,
    textWidth: 8,
    textLayers: 1,
    textWindow: 2,
    maxTextTokens: 16,
    gridSize: 2,
    codes: 6,
    codeWidth: 3,
    vocabulary: text.vocabSize,
  });
  await saveGenerator(model, join(folder, "generator"), { text, tokenizerHash: tokenizer.hash });
  generator = await openGenerator(join(folder, "generator"));
});

const run = (output: string, rows: Iterable<CaptionRow>, more: object = {}) =>
  synthesize({ generator, tokenizer, captions: rows, output, sampling, seed: 5, shardSize: 3, pixels: true, ...more });
const contents = (path: string) =>
  readdirSync(path)
    .sort()
    .map((name) => [name, readFileSync(join(path, name))]);

describe("synthesize", () => {
  it("goes on where it was stopped and ends with the same files", async () => {
    const [whole, stopped] = [join(folder, "whole"), join(folder, "stopped")];
    expect(await run(whole, captions)).toEqual({ completed: true, pictures: 7, shards: 3, skipped: 0 });
    const controller = new AbortController();
    function* some() {
      for (const row of captions) {
        if (row.id === "caption-4") controller.abort();
        yield row;
      }
    }
    expect((await run(stopped, some(), { signal: controller.signal })).completed).toBe(false);
    expect(readdirSync(stopped)).toContain("shard-00000.safetensors");
    expect(readdirSync(stopped)).not.toContain("shard-00001.safetensors");
    expect((await run(stopped, captions)).completed).toBe(true);
    expect(contents(stopped)).toEqual(contents(whole));
  });

  it("draws the same for a caption in any order of captions", async () => {
    const [one, two] = [join(folder, "forward"), join(folder, "backward")];
    await run(one, captions, { shardSize: 10 });
    await run(two, captions.toReversed(), { shardSize: 10 });
    const read = async (path: string) => {
      await using file = await SafetensorsFile.open(join(path, "shard-00000.safetensors"));
      return await file.readF32("embeddings");
    };
    const [forward, backward] = [await read(one), await read(two)];
    captions.forEach((_, i) => {
      const other = captions.length - 1 - i;
      expect(backward.subarray(12 * other, 12 * other + 12)).toEqual(forward.subarray(12 * i, 12 * i + 12));
    });
  });

  it("skips and counts captions that are too long, 10 MB of text too", async () => {
    const rows = [...captions, { id: "long", caption: "a ".repeat(5_000_000) }];
    expect(await run(join(folder, "long"), rows)).toMatchObject({ pictures: 7, skipped: 1 });
  });

  it("refuses codes of another tokenizer, captions of another vocabulary, a folder begun otherwise", async () => {
    const output = join(folder, "refused");
    const foreign = { ...generator, tokenizerHash: "0".repeat(64) };
    await expect(run(output, captions, { generator: foreign })).rejects.toMatchObject({
      code: "SYNTH_TOKENIZER_MISMATCH",
    });
    await expect(run(output, captions, { vocabulary: "other" })).rejects.toMatchObject({
      code: "SYNTH_VOCABULARY_MISMATCH",
    });
    await run(output, captions);
    await expect(run(output, captions, { seed: 6 })).rejects.toMatchObject({ code: "TREFOIL_RESUME" });
    await expect(run(output, captions.toReversed())).rejects.toMatchObject({ code: "TREFOIL_RESUME" });
    // Two whole shards of three: the third would stay, and be read as theirs.
    await expect(run(output, captions.slice(0, 6))).rejects.toMatchObject({ code: "TREFOIL_RESUME" });
  });

  it("writes a folder by one at a time, so that no caption gets another's picture", async () => {
    const output = join(folder, "shared");
    const both = await Promise.allSettled([run(output, captions), run(output, captions.toReversed())]);
    const refused = both.flatMap((each) => (each.status === "rejected" ? [each.reason] : []));
    expect(refused).toEqual([expect.objectContaining({ code: "RUN_DIRECTORY_LOCKED" })]);
    const rows = both[0].status === "fulfilled" ? captions : captions.toReversed();
    const alone = join(folder, "alone");
    await run(alone, rows);
    expect(contents(output)).toEqual(contents(alone));
  });
});
