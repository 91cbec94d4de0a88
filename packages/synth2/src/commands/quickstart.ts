import { existsSync } from "node:fs";
import { join } from "node:path";
import { defineCommand, openRunDirectory, RUN_LAYOUT, trainBpe, writeFileAtomic } from "@trefoil/core";
import { z } from "zod";
import { captionsOf, encodePairs, generatorSizesSchema, openGenerator, trainGenerator } from "../generator/index.js";
import { contactSheet, drawCaptions, reconstruct } from "../quickstart/pictures.js";
import { percent, writeQuickstartReport } from "../quickstart/report.js";
import { samplingSchema } from "../sampling/index.js";
import { synthesize } from "../synthesize/index.js";
import { architectureSchema, trainTokenizer, VqImageTokenizer } from "../tokenizer/index.js";
import { WorldDataset } from "../world/index.js";
import { count, folder, trainFields } from "./fields.js";
import { tokenizerLossSchema } from "./tokenizer.js";

export const quickstartCommand = defineCommand({
  name: "quickstart",
  summary: "From nothing to generated pictures on the built-in world.",
  description:
    "Trains an image tokenizer and a generator on a few pairs of the built-in world, draws pictures and embeddings for captions that neither has seen, and reads them back with a judge. Writes report.html and pictures.png.",
  examples: ["synth2 quickstart", "synth2 quickstart --run runs/mine --resume"],
  schema: z.strictObject({
    run: folder("Run directory for models, pictures and the report. Default: runs/quickstart-TIME.").optional(),
    resume: z.boolean().default(false).describe("Go on where the run in --run stopped."),
    pairs: count(1500, "Pictures with captions to train on."),
    heldOut: count(96, "Pictures with captions to measure on."),
    tokenizer: z
      .strictObject({
        model: architectureSchema.prefault({}),
        train: trainFields({ steps: 1200, learningRate: 4e-3, batch: 8 }).prefault({}),
      })
      .prefault({}),
    generator: z
      .strictObject({
        model: generatorSizesSchema.prefault({ width: 96, layers: 3, feedForward: 192, textWidth: 64, textLayers: 1 }),
        train: trainFields({ steps: 700, learningRate: 3e-3, batch: 16 }).prefault({}),
      })
      .prefault({}),
    sampling: samplingSchema.prefault({
      order: "halton",
      guidance: 1,
      temperature: 0.8,
      steps: 24,
      guidanceRamp: false,
    }),
  }),
  run: async (config, { progress, signal, stdout, version }) => {
    const { resume, sampling, tokenizer, generator: drawing } = config;
    const isRun = config.run !== undefined && existsSync(join(config.run, RUN_LAYOUT.config));
    await using run = await openRunDirectory({
      name: "quickstart",
      directory: config.run,
      resume: resume && isRun,
      config,
      versions: { synth2: version },
    });
    progress.log(`Everything goes to ${run.path}; stopped with Ctrl-C, it goes on with --run ${run.path} --resume`);
    const at = (name: string) => join(run.path, name);
    const size = tokenizer.model.imageSize;
    const data = new WorldDataset({ split: "paired", length: config.pairs, size });
    const heldOut = new WorldDataset({ split: "test", length: config.heldOut, size });
    const runs = { tokenizer: at("tokenizer-run"), generator: at("generator-run") };
    if (!existsSync(at("tokenizer"))) {
      const { completed } = await trainTokenizer({
        ...{ data, dataName: `paired ${data.length}`, architecture: tokenizer.model, settings: tokenizer.train },
        ...{ loss: tokenizerLossSchema.parse({}), output: at("tokenizer"), run: runs.tokenizer, resume: true },
        ...{ progress, signal },
      });
      if (!completed) return;
    }
    using images = await VqImageTokenizer.open(at("tokenizer"));
    if (!existsSync(at("generator"))) {
      const text = await trainBpe(await captionsOf(data), { vocabSize: 512 });
      const pairs = await encodePairs(data, images, text, drawing.model.maxTextTokens, { progress, signal });
      const { gridSize, codebookSize: codes, dimension: codeWidth } = images;
      const { completed } = await trainGenerator({
        architecture: { ...drawing.model, gridSize, codes, codeWidth, vocabulary: text.vocabSize },
        loss: { schedule: "cosine", average: "batch", dropCondition: 0.1, labelSmoothing: 0 },
        ...{ pairs, text, settings: drawing.train, tokenizerHash: images.hash },
        ...{ output: at("generator"), run: runs.generator, resume: true, progress, signal },
      });
      if (!completed) return;
    }
    const generator = await openGenerator(at("generator"));
    try {
      const captions: string[] = [];
      for (let i = 0; i < heldOut.length; i++) captions.push((await heldOut.get(i)).captions[0]!);
      const reconstructions = await reconstruct(heldOut, images);
      const drawn = await drawCaptions(captions, generator, images, { sampling, seed: 0, signal });
      await writeFileAtomic(at("pictures.png"), await contactSheet(drawn.pictures, 12));
      const rows = captions.map((caption, i) => ({ id: String(i), caption }));
      const shards = { captions: rows, output: at("synthetic"), shardSize: 64, seed: 0 };
      const { completed } = await synthesize({ generator, tokenizer: images, ...shards, sampling, progress, signal });
      if (!completed) return;
      await writeQuickstartReport(run.path, { reconstructions, drawn, runs }, config);
      stdout.write(`\nread back as said: ${percent(reconstructions.accuracy.exact)} of reconstructions, `);
      stdout.write(`${percent(drawn.accuracy.exact)} of generated pictures\n`);
      progress.log(`Report: ${run.report}`);
    } finally {
      generator.model.dispose();
    }
  },
});
