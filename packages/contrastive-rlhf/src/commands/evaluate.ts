import { defineCommand, loadTokenizer, writeReport } from "@trefoil/core";
import { z } from "zod";
import { readPrompts } from "../data/index.js";
import { RlhfError } from "../errors.js";
import { commandJudge, evaluate, type FrontierPoint, rewardKlFrontier } from "../stages/index.js";
import { count, file, folder, openRewards, samplerFields } from "./fields.js";
import { comparisonReport, comparisonText } from "./reports.js";

export const evaluateCommand = defineCommand({
  name: "evaluate",
  summary: "Wins, ties and losses of one policy against another, with confidence intervals.",
  description:
    "Decided by rewards, or by a judge: a program that reads {prompt, a, b} as JSON and prints A, B or tie. A judge is asked in both orders; disagreement is a tie. Length-matched pairs are counted separately.",
  examples: [
    "contrastive-rlhf evaluate --policy models/contrast --against models/ppo --reward models/reward --prompts heldout.jsonl",
    "contrastive-rlhf evaluate --policy models/contrast --against models/sft --judge ./judge.sh --prompts heldout.jsonl --report evaluation.html",
  ],
  schema: z.strictObject({
    policy: folder("Folder of the policy."),
    against: folder("Folder of the policy it is compared with."),
    reward: z.array(z.string().min(1)).default([]).describe("Rewards that compare responses, as in ppo."),
    judge: z.string().min(1).optional().describe("Shell command that compares them instead."),
    prompts: file("Prompts that neither was trained on."),
    samples: count(1, "Responses of each policy to each prompt; 1, because more prompts say more than more responses."),
    sampler: samplerFields(64).prefault({}),
    batch: count(64, "Responses sampled at a time; no result depends on it."),
    frontier: folder(
      "Run directory of ppo: also print reward against KL for each of its checkpoints. --against must be its SFT policy.",
    ).optional(),
    report: z.string().min(1).optional().describe("HTML file to write.").meta({ placeholder: "file.html" }),
  }),
  run: async (config, { progress, signal, stdout }) => {
    const { policy, against, judge, samples, sampler, batch, frontier, report } = config;
    if (config.reward.length > 0 === (judge !== undefined))
      throw new RlhfError("RLHF_OPTIONS", "give --reward or --judge, one of them");
    if (frontier !== undefined && judge !== undefined)
      throw new RlhfError("RLHF_OPTIONS", "the frontier needs --reward");
    const tokenizer = await loadTokenizer(policy);
    const prompts = await readPrompts(config.prompts, tokenizer);
    const againstPrompts = await readPrompts(config.prompts, await loadTokenizer(against));
    using rewards = judge === undefined ? await openRewards(config.reward, tokenizer) : undefined;
    const by = rewards ? { rewards } : { judge: commandJudge(judge!, signal) };
    const shared = { prompts, samples, sampler, batch, progress, signal };
    const comparison = await evaluate({ policy, against, by, againstPrompts, ...shared });
    stdout.write(comparisonText(comparison));
    let points: FrontierPoint[] | undefined;
    if (frontier !== undefined && rewards) {
      const start = { ...shared, policy: against, prompts: againstPrompts };
      points = await rewardKlFrontier({ ...start, run: frontier, rewards });
      for (const { iteration, kl, reward } of points)
        stdout.write(`iteration ${iteration}: KL ${kl.toFixed(3)} nats, reward ${reward.toFixed(4)}\n`);
    }
    if (report !== undefined) await writeReport(report, comparisonReport(comparison, { policy, against }, points));
  },
});
