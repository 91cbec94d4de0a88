import { availableParallelism } from "node:os";
import { defineCommand, readSettings, writeExperimentReport } from "@trefoil/core";
import { z } from "zod";
import {
  type ExperimentSettings,
  findings,
  isComplete,
  readResults,
  runExperiment,
  summarise,
  timeSpent,
} from "../experiment/index.js";
import { StageError } from "../stages/index.js";
import { fitsContext, folder, modelFields, size } from "./fields.js";
import { reproduceMarkdown } from "./reproduce-markdown.js";
import { reproduceSections, resultsTable } from "./reproduce-report.js";

const whole = { seeds: 4, steps: 2500, seedSteps: 12_000, full: ["paper", "levers"] as const, shares: [0.2, 0.4, 0.8] };
const small = { seeds: 2, steps: 1000, seedSteps: 1500, full: ["levers"] as const, shares: [0.25, 0.85] };

export const reproduceCommand = defineCommand({
  name: "reproduce",
  summary:
    "The experiment: which of the paper's claims hold at a small scale? Paired seeds, expectations stated beforehand.",
  description:
    "Trains a seed on the built-in code, prose and arithmetic, then Branch-Train-MiX and its variants in the paper's regime and with four levers, Branch-Train-Merge, the plain average, dense continued training and sparse upcycling, matched by FLOPs, tokens and time. Every arm of every seed is a line of results.jsonl; stopped, it goes on where it was.",
  examples: [
    "btx reproduce --output runs/reproduce",
    "btx reproduce --output runs/small --small",
    "btx reproduce --output runs/small --summary",
  ],
  schema: z
    .strictObject({
      output: folder("Folder of results and report; one that is there is completed.").default("runs/reproduce"),
      small: z
        .boolean()
        .default(false)
        .describe(
          "2 seeds, fewer steps, and variants and matchings only in the regime with levers; other flags take precedence.",
        ),
      summary: z
        .boolean()
        .default(false)
        .describe("Run nothing: print existing results as Markdown, with the settings they were made with."),
      workers: size(Math.min(availableParallelism(), 8), "Seeds worked on at a time, each by a process of one thread."),
      seeds: z
        .number()
        .int()
        .positive()
        .optional()
        .describe(`Paired seeds. Default: ${whole.seeds}; with --small ${small.seeds}.`),
      steps: z
        .number()
        .int()
        .positive()
        .optional()
        .describe(`Compute after the seed, in dense steps. Default: ${whole.steps}; with --small ${small.steps}.`),
      seedSteps: z
        .number()
        .int()
        .positive()
        .optional()
        .describe(`Updates of the seed. Default: ${whole.seedSteps}; with --small ${small.seedSteps}.`),
      shares: z
        .array(z.number().gt(0).lt(1))
        .optional()
        .describe(
          `Shares of the compute tried for finetuning. Default: ${whole.shares.join(" ")}; with --small ${small.shares.join(" ")}.`,
        ),
      model: modelFields({
        hiddenSize: 64,
        intermediateSize: 192,
        layers: 2,
        heads: 4,
        keyValueHeads: 4,
        maxPositions: 128,
      }).prefault({}),
      batch: size(8, "Rows of a batch."),
      sequence: z.number().int().min(16).multipleOf(2).default(128).describe("Tokens of a row and of a window."),
      seedLearningRate: z.number().positive().default(3e-3).describe("Peak learning rate of the seed."),
      learningRate: z.number().positive().default(1e-3).describe("Peak learning rate of everything after it."),
      windows: size(128, "Held-out windows of each domain, and of those that switch."),
      problems: z.number().int().nonnegative().default(128).describe("Held-out arithmetic problems."),
      maxBytes: size(4_000_000, "Text read of each domain, at most."),
    })
    .refine(({ model, sequence }) => sequence <= model.maxPositions, fitsContext(["sequence"])),
  run: async (config, { progress, signal, stdout }) => {
    const { output, small: isSmall, summary, workers, model: sizes, seeds, steps, seedSteps, shares, ...rest } = config;
    const defaults = isSmall ? small : whole;
    const given: ExperimentSettings = {
      ...rest,
      sizes,
      full: defaults.full,
      seeds: seeds ?? defaults.seeds,
      steps: steps ?? defaults.steps,
      seedSteps: seedSteps ?? defaults.seedSteps,
      shares: shares ?? defaults.shares,
    };
    // A summary is of what was run, whatever the defaults are now.
    const settings = (summary && (await readSettings<ExperimentSettings>(output))) || given;
    if (!summary) await runExperiment(output, settings, { workers, progress, signal });
    const rows = await readResults(output);
    if (summary && rows.length === 0)
      throw new StageError("BTX_OPTIONS", `${output} holds no results.jsonl: run first`);
    const completed = isComplete(rows, settings);
    const spent = timeSpent(rows);
    const result = {
      ...{ arms: summarise(rows, settings), findings: findings(rows, settings), settings, completed },
      ...(spent && { spent }),
    };
    if (summary) {
      stdout.write(reproduceMarkdown(result));
      return;
    }
    stdout.write(`\n${resultsTable(result)}\n`);
    await writeExperimentReport(output, progress, {
      title: "Branch-Train-MiX in small",
      seeds: settings.seeds,
      completed,
      sections: reproduceSections(result, rows),
      summary: reproduceMarkdown(result),
    });
  },
});
