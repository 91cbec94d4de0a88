import { mkdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { saveSafetensors, trainBpe } from "@trefoil/core";
import { describe, expect, it } from "vitest";
import {
  Captioner,
  CodedDataset,
  type EmbeddedDataset,
  hashLanguageModel,
  LanguageModel,
  mixOfStep,
  openVlm,
  SyntheticDataset,
  scoreDataset,
  type TrainVlmOptions,
  trainVlm,
  VlmTrainer,
  VqImageTokenizer,
  vlmArchitecture,
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

/** Embeddings that say plainly what is in the picture: its colour in the first position, its shape in the last. */
function plainPictures(): EmbeddedDataset & Pick<CodedDataset, "samples"> {
  const [colours, shapes] = [
    ["red", "green", "blue", "white"],
    ["circle", "square", "star", "ring"],
  ];
  const samples = colours.flatMap((colour, c) =>
    shapes.map((shape, s) => ({
      id: `${c}${s}`,
      captions: [`a ${colour} ${shape}`, `there is a ${colour} ${shape}`],
      attributes: { objects: [{ colour, shape, size: "large" as const, row: 1, column: 1 }] },
    })),
  );
  return {
    ...{ length: 16, positions: 4, dimension: 8, tokenizerHash: "plain", samples },
    get: (index) => {
      const embedding = new Float32Array(32);
      embedding[index >> 2] = 1;
      embedding[28 + (index & 3)] = 1;
      const { id, captions } = samples[index]!;
      return { id, captions, embedding };
    },
  };
}

describe("training a vision-language model", () => {
  it("lowers the loss, writes captions of the grammar, and leaves the language model as it is", async () => {
    const folder = await temporaryFolder();
    const at = (name: string) => join(folder, name);
    const real = plainPictures();
    const texts = real.samples.flatMap(({ captions }) => captions);
    await trainSmallLanguage(at("language"), 60, {
      captions: texts.map((caption) => ({ caption, classes: [] })),
      tokenizer: await trainBpe(texts, { vocabSize: 300 }),
    });
    using language = await LanguageModel.open(at("language"));
    const losses: number[] = [];
    const trainer = new VlmTrainer(vlmArchitecture(vlmSizes, real, language), {
      language,
      maxTextTokens: 12,
      settings: settings(1),
    });
    const captionsOf = async (model: VlmTrainer["model"]) => {
      using captioner = new Captioner(model, language, { maxTokens: 12, batch: 16 });
      return await captioner.captionAll(real);
    };
    // Gates are 0: what the language model says of any picture.
    const blind = await captionsOf(trainer.model);
    expect(new Set(blind).size).toBe(1);
    trainer.dispose();
    const { hash } = await trainVlm({
      ...{ data: { real, syntheticShare: 0 }, dataName: "plain", language, sizes: vlmSizes, maxTextTokens: 12 },
      ...{ settings: settings(400, { learningRate: 6e-3 }), output: at("vlm"), run: at("vlm-run") },
    });
    const lines = (await readFile(join(at("vlm-run"), "metrics.jsonl"), "utf8")).trim().split("\n");
    for (const line of lines) {
      const { loss } = JSON.parse(line) as { loss?: number };
      if (loss !== undefined) losses.push(loss);
    }
    const mean = (some: number[]) => some.reduce((a, b) => a + b) / some.length;
    expect(mean(losses.slice(-10))).toBeLessThan(0.9 * mean(losses.slice(0, 10)));
    const opened = await openVlm(at("vlm"), language);
    expect(opened.hash).toBe(hash);
    const seeing = await captionsOf(opened.model);
    const { attributes } = scoreDataset(seeing, real);
    expect(attributes!.grammatical).toBe(1);
    expect(await hashLanguageModel(language.model)).toBe(language.hash);
    // A picture's caption does not depend on those beside it.
    using alone = new Captioner(opened.model, language, { maxTokens: 12, batch: 1 });
    expect(await alone.caption((await real.get(3)).embedding, 1)).toEqual([seeing[3]]);
  }, 120_000);

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
    await expect(other).rejects.toMatchObject({ code: "SYNTH_RESUME" });
    expect((await train("stopped", 10, { data, resume: true })).hash).toBe(whole.hash);
    expect((await train("real", 10)).hash).not.toBe(whole.hash);

    const foreign = { ...data, synthetic: { ...synthetic, length: 6, tokenizerHash: "0".repeat(64) } as never };
    await expect(train("foreign", 2, { data: foreign })).rejects.toMatchObject({ code: "SYNTH_TOKENIZER_MISMATCH" });
    await expect(train("share", 2, { data: { real, syntheticShare: 0.5 } })).rejects.toMatchObject({
      code: "SYNTH_OPTIONS",
    });
    await expect(train("heads", 2, { sizes: { ...vlmSizes, heads: 3 } })).rejects.toThrow(/heads must divide/);
    await expect(train("whole", 2)).rejects.toMatchObject({ code: "SYNTH_OPTIONS" });

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
