import { mkdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { saveSafetensors, trainBpe } from "@trefoil/core";
import { describe, expect, it } from "vitest";
import {
  CodedDataset,
  LanguageModel,
  mixOfStep,
  openVlm,
  SyntheticDataset,
  type TrainVlmOptions,
  trainVlm,
  VqImageTokenizer,
} from "../../src/index.js";
import { temporaryFolder } from "../folder.js";
import { trainSmallTokenizer, world } from "../pipeline/small.js";
import { settings, trainSmallLanguage, vlmSizes } from "./small.js";

async function prepare(languageSteps: number) {
  const folder = await temporaryFolder();
  const at = (name: string) => join(folder, name);
  await trainSmallTokenizer(at("tokenizer"), 40);
  await trainSmallLanguage(at("language"), languageSteps);
  const images = await VqImageTokenizer.open(at("tokenizer"));
  const language = await LanguageModel.open(at("language"));
  const real = await CodedDataset.encode(world, images);
  const train = (name: string, steps: number, extra: Partial<TrainVlmOptions> = {}) =>
    trainVlm({
      data: { real, syntheticShare: 0 },
      dataName: "small world",
      language,
      sizes: vlmSizes,
      maxTextTokens: 40,
      settings: settings(steps),
      output: at(name),
      run: at(`${name}-run`),
      ...extra,
    });
  return { at, images, language, real, train };
}

describe("training a vision-language model", () => {
  it("mixes real and synthetic pairs, stopped and resumed ends the same, and refuses what does not fit", async () => {
    const { at, images, language, real, train } = await prepare(4);
    const shards = at("synthesis");
    await mkdir(shards);
    const manifest = { tokenizer: images.hash, positions: real.positions, dimension: real.dimension };
    await writeFile(join(shards, "synthesis.json"), JSON.stringify(manifest));
    for (const shard of [0, 1]) {
      const rows = [0, 1, 2].map((i) => 3 * shard + i);
      const name = join(shards, `shard-0000${shard}`);
      const embedded = Float32Array.from(rows.flatMap((row) => [...real.get(row).embedding]));
      const shape = [3, real.positions, real.dimension];
      await saveSafetensors(`${name}.safetensors`, { embeddings: { dtype: "F32", shape, data: embedded } }, {});
      const lines = rows.map((row) => JSON.stringify({ id: `s${row}`, caption: real.get(row).captions[0] }));
      await writeFile(`${name}.jsonl`, `${lines.join("\n")}\n`);
    }
    await using synthetic = await SyntheticDataset.open(shards);
    expect(synthetic.length).toBe(6);
    expect((await synthetic.get(4)).embedding).toEqual(real.get(4).embedding);
    expect(await synthetic.get(4)).toMatchObject({ id: "s4", captions: [real.get(4).captions[0]] });

    const data = { real, synthetic, syntheticShare: 0.3 };
    const whole = await train("whole", 10, { data });
    const stopping = new AbortController();
    let reads = 0;
    const counted = {
      ...{
        length: real.length,
        positions: real.positions,
        dimension: real.dimension,
        tokenizerHash: real.tokenizerHash,
      },
      get: (index: number) => {
        if (++reads > 60) stopping.abort();
        return real.get(index);
      },
    };
    const stopped = await train("stopped", 10, { data: { ...data, real: counted }, signal: stopping.signal });
    expect(stopped.completed).toBe(false);
    const other = train("stopped", 10, { data: { ...data, syntheticShare: 0.4 }, resume: true });
    await expect(other).rejects.toMatchObject({ code: "TREFOIL_RESUME" });
    expect((await train("stopped", 10, { data, resume: true })).hash).toBe(whole.hash);
    expect((await train("real", 10)).hash).not.toBe(whole.hash);

    const foreign = { ...data, synthetic: { ...synthetic, length: 6, tokenizerHash: "0".repeat(64) } as never };
    await expect(train("foreign", 2, { data: foreign })).rejects.toMatchObject({ code: "SYNTH_TOKENIZER_MISMATCH" });
    await expect(train("share", 2, { data: { real, syntheticShare: 0.5 } })).rejects.toMatchObject({
      code: "SYNTH_OPTIONS",
    });
    await expect(train("heads", 2, { sizes: { ...vlmSizes, heads: 3 } })).rejects.toThrow(/heads must divide/);
    await expect(train("whole", 2)).rejects.toMatchObject({ code: "TREFOIL_OUTPUT_EXISTS" });

    // Another language model; another vocabulary; a tokenizer too large for the model; no synthesis.
    await trainSmallLanguage(at("other"), 5);
    using otherLanguage = await LanguageModel.open(at("other"));
    await expect(openVlm(at("whole"), otherLanguage)).rejects.toMatchObject({ code: "SYNTH_MODEL" });
    const words = await trainBpe(["a few other words, a few other words"], { vocabSize: 270 });
    await trainSmallLanguage(at("words"), 2, { tokenizer: words });
    using otherWords = await LanguageModel.open(at("words"));
    await expect(openVlm(at("whole"), otherWords)).rejects.toMatchObject({ code: "SYNTH_VOCABULARY_MISMATCH" });
    await writeFile(join(at("words"), "tokenizer.json"), await readFile(join(at("other"), "tokenizer.json")));
    await expect(LanguageModel.open(at("words"))).rejects.toMatchObject({ code: "SYNTH_VOCABULARY_MISMATCH" });
    await expect(SyntheticDataset.open(at("tokenizer"))).rejects.toMatchObject({ code: "SYNTH_STORE" });
    await writeFile(join(shards, "shard-00001.jsonl"), '{"id":"x","caption":"y"}\n');
    await expect(SyntheticDataset.open(shards)).rejects.toMatchObject({ code: "SYNTH_STORE" });
    language.dispose();
  }, 60_000);

  it("has the share of synthetic pairs that is asked for, whatever the batch", () => {
    let [realRows, syntheticRows] = [0, 0];
    for (let step = 0; step < 100; step++) {
      const { real, synthetic } = mixOfStep(7, 0.3, step);
      expect([real.at, synthetic.at]).toEqual([realRows, syntheticRows]);
      expect(real.count + synthetic.count).toBe(7);
      realRows += real.count;
      syntheticRows += synthetic.count;
    }
    expect([realRows, syntheticRows]).toEqual([490, 210]);
    expect(mixOfStep(8, 1, 3)).toEqual({ real: { at: 0, count: 0 }, synthetic: { at: 24, count: 8 } });
  });
});
