import { availableParallelism } from "node:os";
import { defineCommand, terminalTable, writeExperimentReport } from "@trefoil/core";
import { z } from "zod";
import {
  claimFindings,
  type ExperimentSettings,
  falsifierFindings,
  readResults,
  runExperiment,
  summarise,
  tunedSettings,
  tunePpo,
} from "../experiment/index.js";
import { count, folder } from "./fields.js";
import { findingText, markdownReport, reportSections, tuningTable } from "./reproduce-report.js";

const whole = {
  seeds: 20,
  offsets: [0, 0.5, 1, 2],
  flips: [0, 0.1, 0.2, 0.3, 0.4],
  samples: [1, 4, 16, 64],
  showcase: 2,
};
const small = { seeds: 3, offsets: [0, 1], flips: [0, 0.2], samples: [4, 16], showcase: 0 };

const list = (text: string, values: readonly number[], fewer: readonly number[]) =>
  `${text} Default: ${values.join(" ")}; with --small ${fewer.join(" ")}.`;

export const reproduceCommand = defineCommand({
  name: "reproduce",
  summary:
    "The experiment: when do contrastive rewards help, and when not? Paired seeds, falsifiers stated beforehand.",
  description:
    "Trains SFT, DPO, PPO, contrast with several k, and RLOO on the built-in task: with offsets of each prompt's reward that nothing can learn, with reward models learned from flipped labels, and under the paper's binary noise. Every arm of every seed is a line of results.jsonl; stopped, it goes on where it was. Differences are paired by seed. PPO was tuned first, on other seeds (--tune does it again).",
  examples: [
    "contrastive-rlhf reproduce --output runs/reproduce",
    "contrastive-rlhf reproduce --output runs/small --small",
    "contrastive-rlhf reproduce --output runs/tuning --tune",
  ],
  schema: z.strictObject({
    output: folder("Folder of results and report; one that is there is completed.").default("runs/reproduce"),
    small: z.boolean().default(false).describe("Fewer seeds and cells, in minutes; other flags take precedence."),
    tune: z.boolean().default(false).describe("Only tune plain PPO, on seeds of its own, and print the result."),
    workers: count(Math.min(availableParallelism(), 8), "Seeds trained at a time, each by a process of one thread."),
    seeds: z
      .int()
      .positive()
      .optional()
      .describe(`Paired seeds. Default: ${whole.seeds}; with --small ${small.seeds}.`),
    offsets: z
      .array(z.number().nonnegative())
      .optional()
      .describe(list("Standard deviations of the offsets.", whole.offsets, small.offsets)),
    flips: z
      .array(z.number().min(0).max(0.5))
      .optional()
      .describe(list("Shares of flipped preferences.", whole.flips, small.flips)),
    binary: z.array(z.number().min(0).max(0.5)).default([0.2]).describe("Levels of the binary noise."),
    samples: z
      .array(z.int().positive())
      .optional()
      .describe(list("Offline samples per prompt, k.", whole.samples, small.samples)),
    showcaseSeeds: z
      .int()
      .nonnegative()
      .optional()
      .describe(
        `Seeds of one cell with a policy of a million parameters. Default: ${whole.showcase}; with --small ${small.showcase}.`,
      ),
    headline: count(16, "The k whose gain is tested over cells, with Holm's correction."),
    prompts: count(1024, "Training prompts."),
    fewPrompts: count(32, "Training prompts of the cell where the critic can memorise offsets."),
    heldOutPrompts: count(512, "Prompts that all are judged on."),
    iterations: count(60, "PPO iterations of 64 rollouts."),
    sftSteps: count(500, "Updates of SFT.").meta({ unit: "steps" }),
    rewardSteps: count(3000, "Updates of each reward model.").meta({ unit: "steps" }),
    dpoSteps: count(400, "Updates of DPO.").meta({ unit: "steps" }),
  }),
  run: async ({ output, tune, workers, ...config }, { progress, signal, stdout }) => {
    const settings = settingsOf(config);
    if (tune) {
      const points = await tunePpo(output, settings, { progress, signal });
      if (points) stdout.write(`\n${terminalTable(tuningTable(points), 2)}\n`);
      return;
    }
    const completed = await runExperiment(output, settings, { workers, progress, signal });
    const rows = await readResults(output);
    const { arms, holmP } = summarise(rows, settings);
    const result = {
      arms,
      holmP,
      falsifiers: falsifierFindings(rows, settings),
      claims: claimFindings(rows, settings),
      settings,
      completed,
      seeds: new Set(rows.map(({ seed }) => seed)).size,
    };
    const sections = reportSections(result, rows);
    const [table] = sections;
    stdout.write(
      `\n${terminalTable(table, 2)}\n${[...result.falsifiers, ...result.claims].map(findingText).join("\n")}\n`,
    );
    await writeExperimentReport(output, progress, {
      title: "Contrastive rewards: when they help",
      seeds: settings.seeds,
      completed,
      sections,
      summary: markdownReport(result),
    });
  },
});

type Given = "seeds" | "offsets" | "flips" | "samples" | "showcaseSeeds";

/** What is given counts; the rest is that of the whole experiment, or of the small one. */
export function settingsOf({
  small: isSmall,
  seeds,
  offsets,
  flips,
  samples,
  showcaseSeeds,
  ...rest
}: Omit<ExperimentSettings, Given | "tuned"> & { small: boolean } & {
  [K in Given]?: ExperimentSettings[K] | undefined;
}): ExperimentSettings {
  const defaults = isSmall ? small : whole;
  return {
    ...rest,
    seeds: seeds ?? defaults.seeds,
    offsets: offsets ?? defaults.offsets,
    flips: flips ?? defaults.flips,
    samples: samples ?? defaults.samples,
    showcaseSeeds: showcaseSeeds ?? defaults.showcase,
    tuned: tunedSettings,
  };
}
