import { defineCommand, defined } from "@trefoil/core";
import { z } from "zod";
import { readPrompts } from "../data/index.js";
import { describeBaselines, sampleBaselines } from "../stages/baselines.js";
import { count, file, folder, openRewardsFor, rewardField, samplerFields } from "./fields.js";

export const baselinesCommand = defineCommand({
  name: "baselines",
  summary: "Sample and score responses of the frozen policy, once per prompt: the baselines of contrastive rewards.",
  description:
    "Prints ρ, the between-prompt over the within-prompt variance of rewards, what contrast should change of their variance, and how many samples to take. The store can be resumed after a kill and extended to more samples, and does not depend on the batch.",
  examples: [
    "contrastive-rlhf baselines --policy models/sft --reward models/reward --prompts prompts.jsonl --store baselines --samples 16",
  ],
  schema: z.strictObject({
    policy: folder("Folder of the SFT policy."),
    reward: rewardField,
    prompts: file("Prompts of the PPO run."),
    store: folder("Folder of the store; one that is there is completed or extended."),
    samples: count(
      8,
      "Samples of each prompt, k. A baseline's error falls as 1/k: 8 leave an eighth. What is printed at the end says whether more pay.",
    ),
    sampler: samplerFields(64).prefault({}),
    responsesFrom: folder(
      "Store of the same policy and sampler: its responses are scored by these rewards instead of being sampled again.",
    ).optional(),
    batch: count(64, "Responses sampled at a time; no result depends on it."),
  }),
  run: async (config, { progress, signal, stdout }) => {
    const { policy, store, samples, sampler, batch, responsesFrom } = config;
    const { tokenizer, rewards: opened } = await openRewardsFor(policy, config.reward);
    using rewards = opened;
    const prompts = await readPrompts(config.prompts, tokenizer);
    const result = await sampleBaselines({
      policy,
      rewards,
      prompts,
      samples,
      sampler,
      batch,
      store,
      ...defined({ responsesFrom }),
      progress,
      signal,
    });
    if (!result.completed) return;
    const { text, warning } = describeBaselines(result, samples);
    stdout.write(`${text}\n`);
    if (warning) progress.warn(warning);
  },
});
