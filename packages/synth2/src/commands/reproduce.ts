import { availableParallelism } from "node:os";
import { defineCommand, writeExperimentReport } from "@trefoil/core";
import { z } from "zod";
import {
  type ExperimentSettings,
  findings,
  readResults,
  runExperiment,
  seenScenes,
  summarise,
} from "../experiment/index.js";
import type { PipelineSettings } from "../pipeline/index.js";
import { count, folder } from "./fields.js";
import { pipelineFields, pipelineSettings } from "./pipeline-fields.js";
import { markdownSummary, type ReproduceResult, reproduceSections, resultsTables } from "./reproduce-report.js";

const budget = {
  ...{ pairs: 3000, synthetic: 3000 },
  steps: { tokenizer: 1500, generator: 3600, language: 600, vlm: 4500 },
  vlm: { placeDeviation: 0.9, learningRate: 1.3e-3, warmupSteps: 100 },
};
const whole = { seeds: 5, testPictures: 300, timedSteps: 20 };
/** Of `--small`. */
const small = { seeds: 2, testPictures: 64, timedSteps: 4 };
/** Of the updates and synthetic pairs, with `--small`. */
const smallShare = 0.1;

const eitherCount = (name: keyof typeof whole, meaning: string) =>
  z.int().positive().optional().describe(`${meaning} Default: ${whole[name]}; with --small ${small[name]}.`);

export const reproduceCommand = defineCommand({
  name: "reproduce",
  summary:
    "The experiment: do synthetic pairs help, and what do embeddings save? Paired seeds, expectations stated beforehand.",
  description:
    "For every seed trains image tokenizer, generator and language model on the same few pairs, measures how faithful the generator is, then trains a vision-language model for each arm: human pairs; with GenImage; with GenPair of balanced and of skewed captions; GenPair alone; true pairs of other scenes. Equal updates, one image tokenizer. Then times training on embeddings and on pixels, generation cached and on the fly. Every arm of every seed is a line of results.jsonl; stopped, it goes on where it was.",
  examples: ["synth2 reproduce --output runs/reproduce", "synth2 reproduce --output runs/small --small"],
  schema: z.strictObject({
    output: folder("Folder of results and report; one that is there is completed.").default("runs/reproduce"),
    small: z
      .boolean()
      .default(false)
      .describe(
        "2 seeds and fewer pictures (other flags take precedence), a tenth of all updates and synthetic pairs: minutes, to see that it runs.",
      ),
    workers: count(Math.min(availableParallelism(), 8), "Seeds worked on at a time, each by a process of one thread."),
    seeds: eitherCount("seeds", "Paired seeds."),
    testPictures: eitherCount("testPictures", "Pictures of each test."),
    timedSteps: eitherCount("timedSteps", "Updates timed for each way of training on synthetic pictures."),
    ...pipelineFields(budget),
  }),
  run: async (config, { progress, signal, stdout }) => {
    const { output, workers } = config;
    const settings = settingsOf(config);
    const completed = await runExperiment(output, settings, { workers, progress, signal });
    const rows = await readResults(output);
    const result: ReproduceResult = {
      ...{ rows, arms: summarise(rows), findings: findings(rows), settings, completed },
      seen: seenScenes(settings),
    };
    stdout.write(`\n${resultsTables(result)}\n`);
    await writeExperimentReport(output, progress, {
      title: "Synth² in small",
      seeds: settings.seeds,
      completed,
      sections: await reproduceSections(result),
      summary: markdownSummary(result),
    });
  },
});

/** What is given counts; the rest is that of the whole experiment, or of the small one. */
export function settingsOf(
  config: PipelineSettings & Partial<Record<keyof typeof whole, number | undefined>> & { small: boolean },
): ExperimentSettings {
  const defaults = config.small ? small : whole;
  const pipeline = pipelineSettings(config);
  return {
    seeds: config.seeds ?? defaults.seeds,
    testPictures: config.testPictures ?? defaults.testPictures,
    timedSteps: config.timedSteps ?? defaults.timedSteps,
    pipeline: config.small ? shrunk(pipeline) : pipeline,
  };
}

function shrunk(pipeline: PipelineSettings): PipelineSettings {
  const less = <S extends { train: { steps: number } }>(stage: S): S => ({
    ...stage,
    train: { ...stage.train, steps: Math.max(1, Math.round(stage.train.steps * smallShare)) },
  });
  const { tokenizer, generator, language, vlm, synthetic } = pipeline;
  return {
    ...pipeline,
    ...{ tokenizer: less(tokenizer), generator: less(generator), language: less(language), vlm: less(vlm) },
    synthetic: Math.max(1, Math.round(synthetic * smallShare)),
  };
}
