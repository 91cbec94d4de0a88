import { countField as count, folderField as folder, loadTokenizer, type Tokenizer } from "@trefoil/core";
import { z } from "zod";
import type { Aggregation } from "../algorithm/index.js";
import { RlhfError } from "../errors.js";
import {
  loadModelReward,
  loadRewardFunction,
  RewardSum,
  type TrainingSettings,
  type WeightedReward,
} from "../stages/index.js";

/** Fields that several commands share. */

export { outputFields, runOf } from "@trefoil/core";
export { count, folder };

export const file = (meaning: string) => z.string().min(1).describe(meaning).meta({ placeholder: "file.jsonl" });
export const seed = z.number().int().min(0).max(0xffffffff).default(0);

/** @param defaults of the stage */
export const trainFields = (defaults: { steps: number; learningRate: number; batch: number }) =>
  z.strictObject({
    steps: count(
      defaults.steps,
      "Optimiser updates; steps × batch over the rows are the passes over the data: one to three are usual.",
    ).meta({ unit: "steps" }),
    batch: count(defaults.batch, "Rows (or pairs) of a batch; few, because memory grows with it."),
    learningRate: z
      .number()
      .positive()
      .default(defaults.learningRate)
      .describe(
        "Peak learning rate; falls linearly to 0, as in the reference implementations. For small models: billions of parameters take 1e-6 to 1e-5.",
      ),
    warmupSteps: z
      .number()
      .int()
      .nonnegative()
      .default(10)
      .describe("Steps over which the rate rises from 0, while Adam's moments are guesses.")
      .meta({ unit: "steps" }),
    weightDecay: z
      .number()
      .nonnegative()
      .default(0)
      .describe("AdamW's decay of matrices; 0 because the data are few and the steps too."),
    clipNorm: z
      .number()
      .positive()
      .default(1)
      .describe("Gradients with a larger norm are scaled down to it; 1 as in most implementations."),
    maxLength: count(
      1024,
      "Tokens of prompt and response together, at most the model's context; longer responses are cut, counted and reported.",
    ).meta({ unit: "tokens" }),
    seed: seed.describe("Seed of the initial weights of heads and of the order of the data."),
    checkpointEvery: count(100, "Steps between checkpoints: what a kill can cost.").meta({ unit: "steps" }),
    keepCheckpoints: count(2, "Newest checkpoints kept: the last, and one should it be damaged."),
  }) satisfies z.ZodType<TrainingSettings>;

export const samplerFields = (maxNewTokens: number) =>
  z.strictObject({
    temperature: z
      .number()
      .min(0)
      .default(1)
      .describe("Logits are divided by this; 1 samples the policy itself, which is what its gradient is about."),
    maxNewTokens: count(maxNewTokens, "Length of responses, at most; that of ppo.").meta({ unit: "tokens" }),
    seed: seed.describe(
      "Key of the random numbers. Each prompt and sample has numbers of its own, whatever the batch.",
    ),
  });

export const rewardField = z
  .array(z.string().min(1))
  .min(1)
  .describe(
    "Folder of a reward model, or a JavaScript (with Node 22.18 or newer also TypeScript) module whose default export maps samples to numbers (a run or store knows it by its text and the files it imports by a path, not by packages). Several add up; 0.5*PATH weighs one.",
  );

export const aggregationFields = {
  aggregation: z
    .enum(["mean", "median", "trimmed-mean", "quantile"])
    .default("mean")
    .describe("How samples become one baseline; the paper takes the mean, which has the least variance."),
  fraction: z
    .number()
    .min(0)
    .max(1)
    .default(0.25)
    .describe(
      "Share cut from each end by trimmed-mean, or the quantile taken by quantile: 0.25 is the mean of the middle half, or a cautious baseline.",
    ),
};

export function aggregationOf({
  aggregation,
  fraction,
}: {
  aggregation: "mean" | "median" | "trimmed-mean" | "quantile";
  fraction: number;
}): Aggregation {
  if (aggregation === "trimmed-mean") return { kind: aggregation, fraction };
  if (aggregation === "quantile") return { kind: aggregation, q: fraction };
  return { kind: aggregation };
}

/** Opens every reward. @throws RlhfError `RLHF_OPTIONS`, `RLHF_REWARD`, `RLHF_MODEL` */
export async function openRewards(list: readonly string[], tokenizer: Tokenizer, rows = 64): Promise<RewardSum> {
  const parts: WeightedReward[] = [];
  for (const entry of list) {
    const [, weight, path] = /^(?:([+-]?\d*\.?\d+(?:e[+-]?\d+)?)\*)?(.+)$/i.exec(entry) ?? [];
    if (path === undefined) throw new RlhfError("RLHF_OPTIONS", `the reward ${entry} is not PATH or WEIGHT*PATH`);
    const reward = /\.[cm]?[jt]s$/.test(path)
      ? await loadRewardFunction(path)
      : await loadModelReward(path, tokenizer, rows);
    parts.push({ reward, weight: weight === undefined ? 1 : Number(weight) });
  }
  return new RewardSum(parts);
}

/** The tokenizer of a policy folder, and its rewards. */
export async function openRewardsFor(
  policy: string,
  list: readonly string[],
): Promise<{ tokenizer: Tokenizer; rewards: RewardSum }> {
  const tokenizer = await loadTokenizer(policy);
  return { tokenizer, rewards: await openRewards(list, tokenizer) };
}
