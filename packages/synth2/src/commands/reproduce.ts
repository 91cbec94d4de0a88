import { writeFile } from "node:fs/promises";
import { availableParallelism } from "node:os";
import { join } from "node:path";
import { defineCommand, writeReport } from "@trefoil/core";
import { z } from "zod";
import { type ExperimentSettings, findings, readResults, runExperiment, summarise } from "../experiment/index.js";
import { count, folder } from "./fields.js";
import { pipelineFields, pipelineSettings } from "./pipeline-fields.js";
import { markdownSummary, type ReproduceResult, reproduceSections, resultsTables } from "./reproduce-report.js";

const whole = {
  ...{ pairs: 3000, synthetic: 3000 },
  steps: { tokenizer: 1500, generator: 5000, language: 600, vlm: 1500 },
};
/** Of `--small`. */
const small = { seeds: 2, testPictures: 64, timedSteps: 4, share: 0.1 } as const;

export const reproduceCommand = defineCommand({
  name: "reproduce",
  summary:
    "The experiment: do synthetic pairs help, and what do embeddings save? Paired seeds, expectations stated before.",
  description:
    "For every seed trains image tokenizer, generator and language model on the same few pairs, measures how faithful the generator is, then trains a vision-language model for each arm: human pairs; with GenImage; with GenPair of balanced and of skewed captions; GenPair alone; true pairs of other scenes. Equal updates, one image tokenizer. Then times training on embeddings and on pixels, generation cached and on the fly. Every arm of every seed is a line of results.jsonl; stopped, it goes on where it was.",
  examples: ["synth2 reproduce --output runs/reproduce", "synth2 reproduce --output runs/small --small"],
  schema: z.strictObject({
    output: folder("Folder of results and report; one that is there is completed.").default("runs/reproduce"),
    small: z
      .boolean()
      .default(false)
      .describe("2 seeds, a tenth of the updates and synthetic pairs, fewer pictures: minutes, to see that it runs."),
    workers: count(Math.min(availableParallelism(), 8), "Seeds worked on at a time, each by a process of one thread."),
    seeds: count(5, "Paired seeds."),
    testPictures: count(300, "Pictures of each test."),
    timedSteps: count(20, "Updates timed for each way of training on synthetic pictures."),
    ...pipelineFields(whole),
  }),
  run: async (config, { progress, signal, stdout }) => {
    const { output, small: isSmall, workers, seeds, testPictures, timedSteps } = config;
    const pipeline = pipelineSettings(config);
    const settings: ExperimentSettings = isSmall
      ? { ...small, pipeline: shrunk(pipeline) }
      : { seeds, testPictures, timedSteps, pipeline };
    const completed = await runExperiment(output, settings, { workers, progress, signal });
    const rows = await readResults(output);
    const result: ReproduceResult = { rows, arms: summarise(rows), findings: findings(rows), settings, completed };
    stdout.write(`\n${resultsTables(result)}\n`);
    const report = join(output, "report.html");
    await writeReport(report, {
      title: "Synth² in small",
      subtitle: completed ? `${settings.seeds} paired seeds` : "Not all arms are done",
      sections: await reproduceSections(result),
    });
    await writeFile(join(output, "summary.md"), markdownSummary(result));
    progress.log(`${completed ? "Done" : "Stopped; the same command goes on"}. The report is in ${report}.`);
  },
});

function shrunk(pipeline: ExperimentSettings["pipeline"]): ExperimentSettings["pipeline"] {
  const less = <S extends { train: { steps: number } }>(stage: S): S => ({
    ...stage,
    train: { ...stage.train, steps: Math.max(1, Math.round(stage.train.steps * small.share)) },
  });
  const { tokenizer, generator, language, vlm, synthetic } = pipeline;
  return {
    ...pipeline,
    ...{ tokenizer: less(tokenizer), generator: less(generator), language: less(language), vlm: less(vlm) },
    synthetic: Math.max(1, Math.round(synthetic * small.share)),
  };
}
