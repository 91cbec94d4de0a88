import { existsSync } from "node:fs";
import { join } from "node:path";
import { defineCommand, openRunDirectory, RUN_LAYOUT, sameConfig, writeReport } from "@trefoil/core";
import { z } from "zod";
import { type QuickstartResult, type QuickstartSettings, quickstart } from "../quickstart/index.js";
import { describeBaselines } from "../stages/index.js";
import { count, folder, seed } from "./fields.js";
import { baselineCostText, outcomeText, ppoSections, samplesSection } from "./reports.js";

export const quickstartCommand = defineCommand({
  name: "quickstart",
  summary: "The whole method in about two minutes: SFT, reward model, baselines, PPO with and without contrast.",
  description:
    "The task: write every letter of the prompt once, the largest first, and stop. Its true quality makes the preferences (with noise) and judges the result; no training step sees it. --offset adds to each prompt's reward a number that no critic can learn: what contrast removes exactly.",
  examples: [
    "contrastive-rlhf quickstart",
    "contrastive-rlhf quickstart --offset 1",
    "contrastive-rlhf quickstart --run runs/mine --resume",
  ],
  schema: z.strictObject({
    run: folder(
      "Run directory for models, metrics and the report. Default: runs/contrastive-rlhf-quickstart-TIME.",
    ).optional(),
    resume: z.boolean().default(false).describe("Continue where the run in --run stopped."),
    seed: seed.describe("Seed of everything."),
    prompts: count(2048, "Training prompts."),
    heldOutPrompts: count(512, "Prompts that all policies are compared on."),
    demonstrationNoise: z
      .number()
      .min(0)
      .max(1)
      .default(0.4)
      .describe("Share of random letters in the demonstrations."),
    sftSteps: count(700, "Updates of SFT.").meta({ unit: "steps" }),
    comparedResponses: count(20, "SFT responses per prompt that are compared two by two."),
    flips: z.number().min(0).max(0.5).default(0.1).describe("Share of flipped preferences."),
    rewardSteps: count(1200, "Updates of the reward model.").meta({ unit: "steps" }),
    samples: count(16, "Offline samples per prompt, k."),
    iterations: count(70, "PPO iterations of 64 rollouts."),
    learningRate: z
      .number()
      .positive()
      .default(3e-4)
      .describe("Learning rate of the policy; the critic's is three times that."),
    offset: z
      .number()
      .nonnegative()
      .default(0)
      .describe("Standard deviation of the unlearnable offset of each prompt's reward."),
  }),
  run: async (config, { progress, signal, stdout }) => {
    const { run, resume, ...settings } = config;
    const startedAt = performance.now();
    const continued = resume && run !== undefined && existsSync(join(run, RUN_LAYOUT.config));
    await using directory = await openRunDirectory({
      name: "contrastive-rlhf-quickstart",
      directory: run,
      resume: continued,
      config: settings,
      accept: sameConfig(settings),
    });
    const result = await quickstart({ directory: directory.path, settings, progress, signal });
    if (!result) {
      progress.log(`Stopped. Go on with: contrastive-rlhf quickstart --run ${directory.path} --resume`);
      return;
    }
    const { text, warning } = describeBaselines(result.baselines, settings.samples);
    stdout.write(`\n${comparisonTable(result)}\n${text}\n`);
    const [, contrast] = Object.values(result.runs);
    stdout.write(`Inside PPO with contrast ${await baselineCostText(contrast!)}.\n`);
    if (warning) progress.warn(warning);
    await writeQuickstartReport(directory.report, result, settings, text);
    progress.log(`${((performance.now() - startedAt) / 1000).toFixed(0)} s. The report is in ${directory.report}.`);
  },
});

function comparisonTable({ arms, contrastAgainstPlain, difference }: QuickstartResult): string {
  const width = Math.max(...arms.map(({ name }) => name.length));
  const lines = arms.map(({ name, gold, reward, meanLength, againstSft }) => {
    const against = againstSft ? `   against SFT ${outcomeText(againstSft)}` : "";
    return `${name.padEnd(width)}   true quality ${gold.toFixed(3)}   reward ${reward.toFixed(3)}   length ${meanLength.toFixed(1)}${against}`;
  });
  lines.push("", `contrast against plain PPO: ${outcomeText(contrastAgainstPlain)}`);
  if (difference) {
    const [low, high] = difference.interval;
    lines.push(
      `difference in true quality ${difference.mean.toFixed(3)} (95 % over prompts: ${low.toFixed(3)} to ${high.toFixed(3)}; one seed)`,
    );
  }
  return `${lines.join("\n")}\n`;
}

async function writeQuickstartReport(
  path: string,
  result: QuickstartResult,
  settings: QuickstartSettings,
  baselines: string,
): Promise<void> {
  const { arms, contrastAgainstPlain, rewardAccuracy, runs } = result;
  const outcome = (arm: QuickstartResult["contrastAgainstPlain"] | undefined) =>
    arm
      ? [arm.win, arm.tie, arm.lose, arm.winRate, arm.interval[0], arm.interval[1]]
      : [null, null, null, null, null, null];
  await writeReport(path, {
    title: "Contrastive-reward RLHF",
    subtitle: "SFT, reward model, offline baselines, PPO with and without contrast",
    facts: [
      ...arms.map(({ name, gold }) => ({ label: `${name}: true quality`, value: gold })),
      { label: "contrast wins against plain", value: `${(100 * contrastAgainstPlain.winRate).toFixed(1)} %` },
      ...(rewardAccuracy === undefined ? [] : [{ label: "reward model accuracy", value: rewardAccuracy }]),
    ],
    sections: [
      {
        kind: "table",
        title: "Policies on held-out prompts",
        columns: [
          { label: "policy" },
          { label: "true quality", best: "highest" },
          { label: "reward", best: "highest" },
          { label: "length", unit: "tokens" },
          ...["win", "tie", "lose", "win rate against SFT", "95 % from", "to"].map((label) => ({ label })),
        ],
        rows: arms.map(({ name, gold, reward, meanLength, againstSft }) => [
          name,
          gold,
          reward,
          meanLength,
          ...outcome(againstSft),
        ]),
      },
      { kind: "note", title: "Baselines", text: baselines },
      ...samplesSection(
        Object.fromEntries(arms.map(({ name, responses }) => [name, responses.filter((_, i) => i % 2 === 0)])),
        12,
      ),
      ...(await ppoSections(runs)),
      { kind: "text", title: "Configuration", text: JSON.stringify(settings, null, 2), collapsed: true },
    ],
  });
}
