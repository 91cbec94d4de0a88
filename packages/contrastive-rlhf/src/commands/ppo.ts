import { existsSync } from "node:fs";
import { basename, join, resolve } from "node:path";
import { defineCommand, defined, loadTokenizer, RUN_LAYOUT } from "@trefoil/core";
import { z } from "zod";
import { type PromptText, readPrompts } from "../data/index.js";
import { RlhfError } from "../errors.js";
import { type BaselineSettings, type PpoSettings, plainPpo, ppo, respond, type ScoredSample } from "../stages/index.js";
import { requireReadable } from "../stages/respond.js";
import {
  aggregationFields,
  aggregationOf,
  count,
  file,
  folder,
  openRewardsFor,
  outputFields,
  rewardField,
  runOf,
  seed,
} from "./fields.js";
import { baselineCostText, writePpoReport } from "./reports.js";

const baselineFields = z
  .discriminatedUnion("kind", [
    z.strictObject({
      kind: z
        .literal("none")
        .describe(
          "What is subtracted from rewards: offline is the contrastive reward. none, because the others need a store, a column or more samples.",
        ),
    }),
    z.strictObject({
      kind: z.literal("offline"),
      store: folder("Store made by `contrastive-rlhf baselines`."),
      samples: count(
        8,
        "Samples of each prompt that count, k; with 8 a baseline adds an eighth of the within-prompt variance.",
      ),
      ...aggregationFields,
    }),
    z.strictObject({
      kind: z.literal("reference-column"),
      column: z
        .string()
        .default("reference")
        .describe("Field of the prompts' rows: a response, a reward, or a list of either."),
      ...aggregationFields,
    }),
    z.strictObject({ kind: z.literal("greedy") }),
    z.strictObject({ kind: z.literal("leave-one-out") }),
    z.strictObject({ kind: z.literal("group") }),
  ])
  .default({ kind: "none" });

const shaperFields = z
  .discriminatedUnion("kind", [
    z.strictObject({
      kind: z
        .literal("identity")
        .describe("What is made of reward and baseline: identity, the paper's, subtracts; sigmoid is PAR."),
    }),
    z.strictObject({ kind: z.literal("sigmoid") }),
    z.strictObject({ kind: z.literal("log-sigmoid") }),
    z.strictObject({
      kind: z.literal("clip"),
      limit: z
        .number()
        .positive()
        .default(1)
        .describe(
          "Differences are limited to ± this; 1 suits rewards with a standard deviation of about 1 within a prompt.",
        ),
    }),
    z.strictObject({ kind: z.literal("running-scale") }),
    z.strictObject({ kind: z.literal("match-std") }),
  ])
  .default({ kind: "identity" });

const optional = (meaning: string) => z.number().positive().optional().describe(meaning);

const penaltyFields = z
  .strictObject({
    unended: z
      .enum(["none", "replace", "subtract"])
      .default("none")
      .describe(
        "What happens to the score of a response without an end; none keeps the reward as it is. Set it where responses grow to the limit.",
      ),
    unendedValue: z
      .number()
      .optional()
      .describe(
        "Subtracted, or (with replace) put in its place. Default: 1, about the spread of rewards; -1 with replace.",
      ),
    overlong: z
      .strictObject({
        limit: z
          .int()
          .positive()
          .optional()
          .describe("Length from which the punishment is whole. Default: maxNewTokens.")
          .meta({ unit: "tokens" }),
        buffer: z
          .int()
          .positive()
          .optional()
          .describe("Length over which it grows. Default: a quarter of the limit.")
          .meta({ unit: "tokens" }),
        weight: z.number().positive().default(1).describe("The whole punishment; 1 as in DAPO."),
      })
      .optional()
      .describe("Soft punishment of long responses"),
  })
  .describe("Rules on ends and lengths, the same for rollouts and baselines")
  .prefault({});

export const ppoCommand = defineCommand({
  name: "ppo",
  summary: "Train a policy against rewards by PPO, with contrastive or other baselines.",
  description:
    "Order of a reward: reward models and functions, penalties, baseline, shaper, clip. Alarms stop a broken run and save its batch. A run killed at any instant resumes with the same numbers.",
  examples: [
    "contrastive-rlhf ppo --policy models/sft --reward models/reward --prompts prompts.jsonl --output models/ppo",
    "contrastive-rlhf ppo --policy models/sft --reward models/reward --prompts prompts.jsonl --baseline.kind offline --baseline.store baselines --output models/contrast",
    "contrastive-rlhf ppo --policy models/sft --reward ./length.mjs --prompts prompts.jsonl --baseline.kind leave-one-out --samplesPerPrompt 4 --critic.kind none --output models/rloo",
  ],
  schema: z.strictObject({
    policy: folder("Folder of the SFT policy: start, and reference of the KL penalty."),
    reward: rewardField,
    prompts: file("Prompts."),
    ...outputFields,
    baseline: baselineFields,
    shaper: shaperFields,
    iterations: count(100, "Rollout and update, this many times; where rewards still rise at the end, take more."),
    promptsPerIteration: count(64, "Prompts of an iteration; 64 to 512 are usual, more make gradients less noisy."),
    samplesPerPrompt: count(
      plainPpo.samplesPerPrompt,
      "Rollouts of each prompt; 1, because other prompts teach more, but 2 or more for leave-one-out and group.",
    ),
    epochs: count(
      plainPpo.epochs,
      "Passes over an iteration's rollouts; 4 as in the reference implementations. Lower it first when clipfrac is high.",
    ),
    minibatch: count(32, "Rollouts of one update; half an iteration's. Fewer make more, noisier updates."),
    learningRate: z
      .number()
      .positive()
      .default(3e-6)
      .describe("Of the policy; falls linearly to 0. 3e-6 suits 1B parameters, small models take 1e-4 to 1e-3."),
    clipNorm: z
      .number()
      .positive()
      .default(plainPpo.clipNorm)
      .describe("Gradients with a larger norm are scaled down to it; 1 as in most implementations."),
    temperature: z
      .number()
      .positive()
      .default(plainPpo.temperature)
      .describe(
        "Of sampling and of every log-probability; must be that of the baselines. 1 samples the policy that is trained.",
      ),
    maxNewTokens: count(64, "Length of responses, at most; long enough that most of those of the SFT policy end.").meta(
      { unit: "tokens" },
    ),
    gamma: z.number().min(0).max(1).default(plainPpo.gamma).describe("Discount; 1, because one score ends an episode."),
    lambda: z
      .number()
      .min(0)
      .max(1)
      .default(plainPpo.lambda)
      .describe("Of generalised advantage estimation; 0.95 as in most implementations. Less trusts the critic more."),
    clip: z
      .number()
      .positive()
      .default(plainPpo.clip)
      .describe("Probability ratios are clipped to 1 ± this; 0.2 as in the PPO paper."),
    dualClip: z
      .number()
      .gt(1)
      .optional()
      .describe(
        "Bounds the loss of bad actions that became likely, at this times the advantage; 3 is usual. Default: no bound, as in the PPO paper.",
      ),
    entropyCoefficient: z
      .number()
      .nonnegative()
      .default(plainPpo.entropyCoefficient)
      .describe("Reward for entropy; 0, because the KL penalty keeps the policy wide."),
    whitenAdvantages: z
      .boolean()
      .default(plainPpo.whitenAdvantages)
      .describe(
        "Advantages of an iteration get mean 0 and variance 1, so that the learning rate does not depend on the scale of rewards.",
      ),
    whitenRewards: z
      .boolean()
      .default(plainPpo.whitenRewards)
      .describe("Per-token rewards get variance 1; off, because advantages are whitened."),
    maskTruncated: z
      .boolean()
      .default(plainPpo.maskTruncated)
      .describe("Leave responses without an end out of the loss; off, because the policy would not learn to end."),
    rewardClip: optional(
      "Final rewards are limited to ± this: after the baseline, since clipping before it would spoil the subtraction. Default: no limit; 10 is usual.",
    ),
    kl: z
      .strictObject({
        where: z
          .enum(["reward", "loss-k2", "loss-k3"])
          .default("reward")
          .describe(
            "In the reward by k1 (unbiased; usual in PPO), or in the loss by k2 (right gradient) or k3 (GRPO's).",
          ),
        coefficient: z.number().nonnegative().default(0.05).describe("β; 0.05 as in the N+ details."),
        adaptive: z
          .strictObject({
            target: z
              .number()
              .positive()
              .default(6)
              .describe("KL per response to steer to; 6 as in Ziegler et al.")
              .meta({ unit: "nats" }),
            horizon: z
              .number()
              .positive()
              .default(10000)
              .describe("Responses over which the coefficient can change much; 10000 as in Ziegler et al."),
          })
          .optional()
          .describe("Steer the coefficient to a target KL"),
      })
      .prefault({}),
    critic: z
      .strictObject({
        kind: z
          .enum(["auto", "none", "separate", "shared"])
          .default("auto")
          .describe(
            "separate: a network of its own; shared: a head on the policy (less memory); none; auto: none for leave-one-out and group, which replace it, else separate, whose loss does not disturb the policy.",
          ),
        from: folder(
          "Folder that a separate critic starts from; a reward model is a good one. Default: the SFT policy.",
        ).optional(),
        warmupIterations: z
          .number()
          .int()
          .nonnegative()
          .default(0)
          .describe(
            "First iterations that train only the critic; 0, because values start at 0, which does no harm to advantages.",
          ),
        learningRate: optional("Default: three times the policy's, because the critic starts from nothing."),
        coefficient: z
          .number()
          .positive()
          .default(1)
          .describe("Weight of its loss; only matters for a shared critic, where 0.1 is usual."),
        clip: optional(
          "Values may move this far per iteration. Default: any; contrastive rewards have other scales than the usual 0.2 fits.",
        ),
      })
      .prefault({}),
    penalties: penaltyFields,
    alarms: z
      .strictObject({
        enabled: z
          .boolean()
          .default(true)
          .describe("Stop on numbers that say the run is broken: it rarely recovers, and its batch is worth a look."),
        grace: z
          .number()
          .int()
          .nonnegative()
          .default(5)
          .describe(
            "First iterations in which only numbers that are not finite stop it: a fresh critic explains nothing yet.",
          ),
      })
      .prefault({}),
    seed: seed.describe("Order of prompts, rollouts, heads."),
    checkpointEvery: count(20, "Iterations between checkpoints: what a kill can cost."),
    keepCheckpoints: count(2, "Newest checkpoints kept, for space; more give `evaluate --frontier` more points."),
    shownPrompts: z
      .number()
      .int()
      .nonnegative()
      .default(8)
      .describe("Prompts whose responses the report shows, before and after; as many as fit on a page."),
    beside: z
      .array(z.string().min(1))
      .default([])
      .describe(
        "Folders of policies trained before, such as plain PPO: the report shows their responses (each reads the prompts by its own tokenizer and chat template), and curves where FOLDER-run is their run directory, beside this one's. Default: none.",
      )
      .meta({ placeholder: "folder" }),
  }),
  run: async (config, { progress, signal }) => {
    const {
      policy,
      reward,
      prompts: promptFile,
      output,
      run: _,
      resume,
      overwrite,
      shownPrompts,
      beside,
      baseline,
      critic,
      penalties,
      kl,
      dualClip,
      rewardClip,
      ...rest
    } = config;
    const { maxNewTokens } = rest;
    // Found out now, not when the run has ended: each policy reads the prompts by its own tokenizer and chat template.
    const shownTo = new Map<string, PromptText[]>();
    for (const path of beside) {
      if (!existsSync(join(path, "config.json")))
        throw new RlhfError("RLHF_OPTIONS", `--beside ${path} is no folder of a policy: it has no config.json`);
      try {
        const shown = (await readPrompts(promptFile, await loadTokenizer(path))).slice(0, shownPrompts);
        await requireReadable(path, shown, maxNewTokens);
        shownTo.set(path, shown);
      } catch (error) {
        if (!(error instanceof RlhfError)) throw error;
        throw new RlhfError(error.code, `--beside ${path} cannot answer the prompts: ${error.message}`, {
          cause: error,
        });
      }
    }
    // Folders of one name are told apart by their paths.
    const nameOf = (path: string) =>
      [...beside, output].filter((other) => basename(other) === basename(path)).length > 1 ? path : basename(path);
    const { tokenizer, rewards: opened } = await openRewardsFor(policy, reward);
    using rewards = opened;
    const prompts = await readPrompts(promptFile, tokenizer);
    const { kind, ...ofCritic } = critic;
    const grouped = baseline.kind === "leave-one-out" || baseline.kind === "group";
    const settings: PpoSettings = {
      ...rest,
      ...defined({ dualClip, rewardClip }),
      baseline: baselineOf(baseline),
      critic: {
        ...without(ofCritic),
        kind: kind === "auto" ? (grouped ? "none" : "separate") : kind,
        learningRate: ofCritic.learningRate ?? 3 * rest.learningRate,
      },
      kl: without(kl),
      penalties: penaltiesOf(penalties, rest.maxNewTokens),
    };
    const run = runOf(config);
    const runs = Object.fromEntries([
      ...beside
        .map((path) => [nameOf(path), `${resolve(path)}-run`] as const)
        .filter(([, path]) => existsSync(join(path, RUN_LAYOUT.metrics))),
      [nameOf(output), run],
    ]);
    const report = async (samples: Parameters<typeof writePpoReport>[3]) =>
      await writePpoReport(run, "contrastive-rlhf ppo", runs, samples, config);
    try {
      const options = { policy, rewards, prompts, settings, output, run, resume, overwrite, progress, signal };
      if (!(await ppo(options))) return;
    } catch (error) {
      // What led to an alarm is what its reader wants to see.
      if (error instanceof RlhfError && error.code === "RLHF_ALARM") await report({});
      throw error;
    }
    const shown = {
      samples: 1,
      sampler: { temperature: settings.temperature, maxNewTokens, seed: settings.seed },
      batch: 32,
    };
    const samples: Record<string, ScoredSample[]> = {};
    if (shownPrompts > 0)
      for (const path of [policy, ...beside, output])
        samples[path === policy ? "SFT" : nameOf(path)] = await respond(path, {
          ...shown,
          prompts: shownTo.get(path) ?? prompts.slice(0, shownPrompts),
        });
    await report(samples);
    progress.log(`Inside PPO ${await baselineCostText(run)}.`);
    progress.log(`The policy is in ${output}, the report in ${run}/report.html.`);
  },
});

/** Optional properties that are undefined become absent. */
const without = <T extends object>(value: T) => defined(value) as { [K in keyof T]: Exclude<T[K], undefined> };

function baselineOf(baseline: z.output<typeof baselineFields>): BaselineSettings {
  if (baseline.kind === "offline")
    return { kind: "offline", store: baseline.store, samples: baseline.samples, aggregation: aggregationOf(baseline) };
  if (baseline.kind === "reference-column")
    return { kind: baseline.kind, column: baseline.column, aggregation: aggregationOf(baseline) };
  return baseline;
}

function penaltiesOf({ unended, unendedValue, overlong }: z.output<typeof penaltyFields>, maxNewTokens: number) {
  const limit = overlong?.limit ?? maxNewTokens;
  return {
    unended:
      unended === "none"
        ? { kind: unended }
        : { kind: unended, value: unendedValue ?? (unended === "replace" ? -1 : 1) },
    ...(overlong && { overlong: { limit, buffer: overlong.buffer ?? Math.ceil(limit / 4), weight: overlong.weight } }),
  };
}
