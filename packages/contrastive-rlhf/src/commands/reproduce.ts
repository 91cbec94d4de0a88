import { join } from "node:path";
import { defineCommand, type TableSection, writeReport } from "@trefoil/core";
import { z } from "zod";
import {
  type ArmSummary,
  type ExperimentSettings,
  type FalsifierVerdict,
  readResults,
  runExperiment,
  summarise,
} from "../experiment/index.js";
import { count, folder } from "./fields.js";

const small = { seeds: 2, offsets: [0, 1], flips: [0.2], samples: [4, 16] };

export const reproduceCommand = defineCommand({
  name: "reproduce",
  summary: "The experiment: when do contrastive rewards help, and when not? Paired seeds, falsifiers stated before.",
  description:
    "Trains SFT, PPO, contrast with several k, RLOO and DPO on the built-in task, with offsets of each prompt's reward that nothing can learn, and with reward models learned from flipped labels. Every arm of every seed is a line of results.jsonl; stopped, it goes on where it was. Differences are paired by seed.",
  examples: [
    "contrastive-rlhf reproduce --output runs/reproduce",
    "contrastive-rlhf reproduce --output runs/small --small",
  ],
  schema: z.strictObject({
    output: folder("Folder of results and report; one that is there is completed.").default("runs/reproduce"),
    small: z.boolean().default(false).describe("2 seeds, 2 offsets, 1 rate of flips, 2 values of k."),
    seeds: count(10, "Paired seeds."),
    offsets: z.array(z.number().nonnegative()).default([0, 0.5, 1, 2]).describe("Standard deviations of the offsets."),
    flips: z
      .array(z.number().min(0).max(0.5))
      .default([0, 0.1, 0.2, 0.3, 0.4])
      .describe("Shares of flipped preferences."),
    samples: z.array(z.int().positive()).default([1, 4, 16, 64]).describe("Offline samples per prompt, k."),
    headline: count(16, "The k whose gain is tested over cells, with Holm's correction."),
    prompts: count(2048, "Training prompts."),
    fewPrompts: count(32, "Training prompts of the cell where the critic can memorise offsets."),
    heldOutPrompts: count(512, "Prompts that all are judged on."),
    iterations: count(70, "PPO iterations of 64 rollouts."),
    sftSteps: count(700, "Updates of SFT.").meta({ unit: "steps" }),
    rewardSteps: count(800, "Updates of each reward model, and of DPO.").meta({ unit: "steps" }),
  }),
  run: async (config, { progress, signal, stdout }) => {
    const { output, small: isSmall, ...rest } = config;
    const settings: ExperimentSettings = isSmall ? { ...rest, ...small } : rest;
    const completed = await runExperiment(output, settings, { progress, signal });
    const { arms, holmP, verdicts } = summarise(await readResults(output), settings);
    const table = tableOf(arms, holmP, `contrast k=${settings.headline}`);
    stdout.write(`\n${plainTable(table)}\n${verdicts.map(verdictText).join("\n")}\n`);
    const report = join(output, "report.html");
    await writeReport(report, {
      title: "Contrastive rewards: when they help",
      subtitle: completed ? `${settings.seeds} paired seeds` : "Not all arms are done",
      sections: [
        table,
        { kind: "note", title: "Falsifiers, stated before the run", text: verdicts.map(verdictText).join("\n\n") },
        { kind: "text", title: "Settings", text: JSON.stringify(settings, null, 2), collapsed: true },
      ],
    });
    progress.log(`${completed ? "Done" : "Stopped; the same command goes on"}. The report is in ${report}.`);
  },
});

const verdictText = ({ falsifier, holds, evidence }: FalsifierVerdict): string =>
  `${holds === undefined ? "open" : holds ? "stands" : "FALSIFIED"}: ${falsifier} ${evidence}.`;

function tableOf(arms: readonly ArmSummary[], holmP: Readonly<Record<string, number>>, headline: string): TableSection {
  const labels = [
    "cell",
    "arm",
    "seeds",
    "true quality",
    "reward",
    "length",
    "minus PPO",
    "95 % from",
    "to",
    "sign-flip p",
    "Holm p",
    "win rate",
    "ρ",
    "variance ratio",
    "broken",
  ];
  return {
    kind: "table",
    title: "Arms, against PPO of the same seed",
    columns: labels.map((label) => ({ label })),
    rows: arms.map((row) => {
      const { difference: test } = row;
      const tested = row.arm === headline;
      return [
        row.cell,
        row.arm,
        row.seeds,
        row.gold,
        row.reward,
        row.length,
        ...(test ? [test.mean, test.interval[0], test.interval[1]] : [null, null, null]),
        row.signFlipP ?? null,
        (tested ? holmP[row.cell] : undefined) ?? null,
        row.winRate ?? null,
        row.rho ?? null,
        row.predictedVarianceRatio ?? null,
        row.failures,
      ];
    }),
  };
}

function plainTable({ columns, rows }: TableSection): string {
  const cells = [
    columns.map(({ label }) => label),
    ...rows.map((row) =>
      row.map((value) =>
        typeof value === "number" && !Number.isInteger(value) ? value.toFixed(3) : String(value ?? "–"),
      ),
    ),
  ];
  const widths = columns.map((_, i) => Math.max(...cells.map((row) => row[i]!.length)));
  return `${cells.map((row) => row.map((text, i) => (i < 2 ? text.padEnd(widths[i]!) : text.padStart(widths[i]!))).join("  ")).join("\n")}\n`;
}
