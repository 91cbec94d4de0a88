import { existsSync } from "node:fs";
import { join } from "node:path";
import { defineCommand, openRunDirectory, RUN_LAYOUT, sameConfig, writeFileAtomic } from "@trefoil/core";
import { z } from "zod";
import { compareCaptions } from "../captions/index.js";
import { captionsOf } from "../generator/index.js";
import { type CaptionOrigin, maxCaptionTokens, Stages } from "../pipeline/index.js";
import { contactSheet, drawCaptions, reconstruct } from "../quickstart/pictures.js";
import { type ArmResult, percent, writeQuickstartReport } from "../quickstart/report.js";
import { Captioner, measurePictureUse, scoreDataset } from "../vlm/index.js";
import { count, folder } from "./fields.js";
import { pipelineFields, pipelineSettings } from "./pipeline-fields.js";

const budget = {
  ...{ pairs: 3000, synthetic: 512 },
  steps: { tokenizer: 1000, generator: 1400, language: 400, vlm: 500 },
  vlm: { placeDeviation: 0.3, learningRate: 3e-3, warmupSteps: 20 },
};

/** What is scored: skewed as the pairs are, all looks alike, looks that no pair has. */
const tests = ["test", "balanced", "novel"] as const;

export const quickstartCommand = defineCommand({
  name: "quickstart",
  summary: "From nothing to generated pictures and captions of test ones, on the built-in world.",
  description:
    "Trains an image tokenizer, a generator and a language model on a few pairs of the built-in world, writes captions and draws embeddings for them (GenPair), and trains two vision-language models: on the human pairs alone, and on both. Reads generated pictures back with a judge, and scores captions of test pictures, some of whose scenes stand among the pairs too (none of novel). Writes report.html and pictures.png. One seed: which arm is ahead says little; `reproduce` compares them.",
  examples: ["synth2 quickstart", "synth2 quickstart --run runs/mine --resume"],
  schema: z.strictObject({
    run: folder("Run directory for models, pictures and the report. Default: runs/quickstart-TIME.").optional(),
    resume: z.boolean().default(false).describe("Continue where the run in --run stopped."),
    heldOut: count(96, "Pictures of each kind to measure on."),
    ...pipelineFields(budget),
  }),
  run: async (config, { progress, signal, stdout, version }) => {
    const { run: directory, resume, ...settings } = config;
    const { sampling, heldOut: held } = settings;
    const isRun = directory !== undefined && existsSync(join(directory, RUN_LAYOUT.config));
    await using run = await openRunDirectory({
      name: "quickstart",
      directory,
      resume: resume && isRun,
      config: settings,
      accept: sameConfig(settings),
      versions: { synth2: version },
    });
    progress.log(`Everything goes to ${run.path}; stopped with Ctrl-C, it goes on with --run ${run.path} --resume`);
    const stages = new Stages(run.path, 0, pipelineSettings(config), { progress, signal });
    using images = await stages.tokenizer();
    const generator = await stages.generator(images);
    try {
      using language = await stages.language(generator);
      const heldOut = stages.data("test", held);
      const prompts: string[] = [];
      for (let i = 0; i < heldOut.length; i++) prompts.push((await heldOut.get(i)).captions[0]!);
      const reconstructions = await reconstruct(heldOut, images);
      const drawn = await drawCaptions(prompts, generator, images, { sampling, seed: 0, signal });
      await writeFileAtomic(stages.at("pictures.png"), await contactSheet(drawn.pictures, 12));

      const origin: CaptionOrigin = "balanced";
      const captions = await stages.captions(origin, language);
      await using synthetic = await stages.synthetic(origin, captions, { generator, images });
      const real = await stages.coded(stages.pairs, images);
      const tested = await Promise.all(tests.map((split) => stages.coded(stages.data(split, held), images)));
      const arms: ArmResult[] = [];
      for (const arm of ["human only", "human + GenPair"] as const) {
        const data = arm === "human only" ? { real, syntheticShare: 0 } : { real, synthetic, syntheticShare: 0.5 };
        const { model } = await stages.vlm(arm === "human only" ? "human" : "genpair", language, data);
        using captioner = new Captioner(model, language, { maxTokens: maxCaptionTokens, batch: 32 });
        const written: string[][] = [];
        for (const coded of tested) written.push(await captioner.captionAll(coded, { progress, signal }));
        const scores = Object.fromEntries(
          tests.map((name, i) => [name, scoreDataset(written[i]!, tested[i]!)] as const),
        );
        const use = await measurePictureUse(model, tested[0]!, { language, maxTextTokens: maxCaptionTokens });
        arms.push({ arm, scores, use, captions: written[0]! });
        model.dispose();
      }

      const runs = { tokenizer: stages.at("tokenizer-run"), generator: stages.at("generator-run") };
      const vlms = { human: stages.at("vlm-human-run"), genpair: stages.at("vlm-genpair-run") };
      const written = captions.map(({ caption }) => caption);
      const diversity = compareCaptions(written, await captionsOf(stages.pairs));
      const results = { reconstructions, drawn, arms, diversity, runs: { ...runs, ...vlms } };
      await writeQuickstartReport(run.path, results, config);
      stdout.write(`\nread back as said: ${percent(reconstructions.accuracy.exact)} of reconstructions, `);
      stdout.write(`${percent(drawn.accuracy.exact)} of generated pictures\n`);
      for (const { arm, scores } of arms) {
        const ciders = tests.map((name) => `${name} ${(100 * scores[name]!.cider).toFixed(1)}`).join(", ");
        stdout.write(`CIDEr × 100, ${arm}: ${ciders}\n`);
      }
      const [seen] = arms;
      stdout.write(`"${seen!.captions[0]}" for a picture of "${prompts[0]}"\n`);
      progress.log(`Report: ${run.report}`);
    } finally {
      generator.model.dispose();
    }
  },
});
