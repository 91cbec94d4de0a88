import { readFile } from "node:fs/promises";
import { join } from "node:path";
import {
  checkpointSteps,
  compile,
  loadCheckpoint,
  loadTokenizer,
  RUN_LAYOUT,
  restoreParameters,
  type StageContext,
} from "@trefoil/core";
import { designEffect, fromCounts, mean, type PairedTest, pairedTest, type WinTieLose } from "../algorithm/index.js";
import type { PromptText } from "../data/index.js";
import { RlhfError } from "../errors.js";
import {
  hashModelFolder,
  OpenPolicy,
  type ResponseBatch,
  responseBatch,
  responseLogProbs,
  statesRead,
} from "../models/index.js";
import type { SamplingOptions } from "./baselines.js";
import { type Judge, judgeBothOrders } from "./judge.js";
import { respond, respondWith } from "./respond.js";
import type { RewardSum, ScoredSample } from "./rewards.js";

export interface EvaluateOptions extends StageContext {
  /** Folders of the two policies. */
  policy: string;
  against: string;
  prompts: readonly PromptText[];
  /** The same prompts as `against` reads them, which may have another chat template. Default: as `policy` does. */
  againstPrompts?: readonly PromptText[];
  /** Responses of each policy to each prompt. */
  samples: number;
  sampler: SamplingOptions;
  batch: number;
  /** Who decides: rewards, or a judge. */
  by: { rewards: RewardSum } | { judge: Judge };
}

/** One policy's response beside the other's, and who won: +1 the policy, -1 the one it is compared with. */
export interface ComparedPair {
  prompt: string;
  policy: string;
  against: string;
  outcome: -1 | 0 | 1;
}

export interface Comparison {
  all: WinTieLose;
  /** Pairs whose lengths differ by at most a tenth: no win by length. */
  lengthMatched: WinTieLose;
  meanLength: { policy: number; against: number };
  /** Of rewards; undefined with a judge. */
  meanReward?: { policy: number; against: number };
  /** Differences of each prompt's mean rewards against 0. */
  difference?: PairedTest;
  pairs: ComparedPair[];
}

/**
 * Win, tie and lose of one policy against another on the same prompts, with the same random numbers.
 * @throws RlhfError `RLHF_MODEL` when a reward model reads other tokens than a policy, `RLHF_REWARD`, `RLHF_JUDGE`
 */
export async function evaluate(options: EvaluateOptions): Promise<Comparison> {
  const { progress, signal, by } = options;
  if ("rewards" in by)
    for (const path of [options.policy, options.against]) by.rewards.requireTokenizer(await loadTokenizer(path), path);
  const stage = progress?.stage("evaluate", { total: 3, unit: "parts" });
  const own = await respond(options.policy, options);
  stage?.update(1);
  const other = await respond(options.against, { ...options, prompts: options.againstPrompts ?? options.prompts });
  stage?.update(2);
  const comparison = await compareResponses(own, other, by, options.samples, signal);
  stage?.succeed();
  return comparison;
}

/** The same for responses that are there already; those of one prompt stand together, `samples` each. */
export async function compareResponses(
  own: readonly ScoredSample[],
  other: readonly ScoredSample[],
  by: EvaluateOptions["by"],
  samples: number,
  signal?: AbortSignal,
): Promise<Comparison> {
  if (own.length !== other.length)
    throw new RlhfError("RLHF_OPTIONS", `${own.length} responses cannot be compared with ${other.length}`);
  // Prompts may differ by the chat template, their rows may not.
  const differs = own.findIndex(({ row }, i) => JSON.stringify(row) !== JSON.stringify(other[i]!.row));
  if (differs >= 0)
    throw new RlhfError(
      "RLHF_OPTIONS",
      `response ${differs + 1} answers another row than the one it is to be compared with: give both policies the same prompts`,
    );
  const lengths = (list: readonly ScoredSample[]) => list.map(({ response }) => response.length);
  const [ownLengths, otherLengths] = [lengths(own), lengths(other)];
  const outcomes: (-1 | 0 | 1)[] = [];
  let rewards: Pick<Comparison, "meanReward" | "difference"> = {};
  if ("rewards" in by) {
    const [a, b] = [(await by.rewards.score(own)).total, (await by.rewards.score(other)).total];
    a.forEach((value, i) => {
      outcomes.push(Math.sign(value - b[i]!) as -1 | 0 | 1);
    });
    const differences = Array.from({ length: own.length / samples }, (_, prompt) => {
      const from = prompt * samples;
      return mean(a.slice(from, from + samples)) - mean(b.slice(from, from + samples));
    });
    const spread = differences.length > 1 && differences.some((value) => value !== differences[0]);
    rewards = {
      meanReward: { policy: mean(a), against: mean(b) },
      ...(spread && { difference: pairedTest(differences) }),
    };
  } else {
    for (const [i, { promptText, responseText }] of own.entries()) {
      signal?.throwIfAborted();
      outcomes.push(await judgeBothOrders(by.judge, promptText, responseText, other[i]!.responseText));
    }
  }
  const all = outcomes.map((outcome, i) => ({ outcome, prompt: Math.floor(i / samples) }));
  const matched = all.filter(
    (_, i) => Math.abs(ownLengths[i]! - otherLengths[i]!) <= 0.1 * Math.max(ownLengths[i]!, otherLengths[i]!),
  );
  return {
    all: count(all),
    lengthMatched: count(matched),
    meanLength: { policy: mean(ownLengths), against: mean(otherLengths) },
    ...rewards,
    pairs: own.map(({ promptText, responseText }, i) => ({
      prompt: promptText,
      policy: responseText,
      against: other[i]!.responseText,
      outcome: outcomes[i]!,
    })),
  };
}

/** Responses to one prompt tend to end alike: the interval allows for it. */
function count(pairs: readonly { outcome: number; prompt: number }[]): WinTieLose {
  const [outcomes, prompts] = [pairs.map(({ outcome }) => outcome), pairs.map(({ prompt }) => prompt)];
  const of = (outcome: number) => outcomes.filter((each) => each === outcome).length;
  return fromCounts(of(1), of(0), of(-1), designEffect(outcomes, prompts));
}

/** Scores of `a` against those of `b`; those of one prompt stand together, `samples` each. */
export const winTieLoseByPrompt = (a: readonly number[], b: readonly number[], samples: number): WinTieLose =>
  count(a.map((value, i) => ({ outcome: Math.sign(value - b[i]!), prompt: Math.floor(i / samples) })));

export interface FrontierPoint {
  iteration: number;
  /** Mean over responses of summed log π - log π_ref, nats. */
  kl: number;
  reward: number;
}

export interface FrontierOptions
  extends Pick<EvaluateOptions, "prompts" | "samples" | "sampler" | "batch" | "progress" | "signal"> {
  /** Folder of the SFT policy that the run started from. */
  policy: string;
  /** Run directory of `ppo`, whose checkpoints are measured. */
  run: string;
  rewards: RewardSum;
}

/** KL to any other model than the one that the run started from is not what it was held to. */
async function requireStart(run: string, policy: string): Promise<void> {
  const config = await readFile(join(run, RUN_LAYOUT.config), "utf8").catch(() => "");
  const sft = /^sft: (\w+)$/m.exec(config)?.[1];
  if (sft === undefined) throw new RlhfError("RLHF_OPTIONS", `${run} is not the run directory of ppo`);
  if (sft !== (await hashModelFolder(policy)))
    throw new RlhfError("RLHF_MODEL", `${run} started from another policy than ${policy}: name the SFT policy it had`);
}

/** Reward against KL for every checkpoint that a PPO run has kept, the start included. */
export async function rewardKlFrontier(options: FrontierOptions): Promise<FrontierPoint[]> {
  const { policy: path, run, rewards, sampler, progress, signal } = options;
  if (sampler.temperature <= 0)
    throw new RlhfError("RLHF_OPTIONS", "greedy responses have no KL: the frontier needs a temperature above 0");
  using policy = await OpenPolicy.open(path);
  using reference = await OpenPolicy.open(path);
  const steps = await checkpointSteps(run);
  if (steps.length === 0)
    throw new RlhfError("RLHF_OPTIONS", `${run} has no checkpoints: name the run directory of ppo`);
  await requireStart(run, path);
  const named = new Map(
    [...policy.model.namedParameters()].map(([name, parameter]) => [`policy.${name}`, parameter] as const),
  );
  const logProbs = (model: OpenPolicy["model"]) =>
    compile(
      (batch: ResponseBatch) => responseLogProbs(model, batch, sampler.temperature, statesRead(model, batch)).logProbs,
    );
  const [own, base] = [logProbs(policy.model), logProbs(reference.model)];
  const stage = progress?.stage("frontier", { total: steps.length + 1, unit: "checkpoints" });
  const points: FrontierPoint[] = [];
  for (const step of [0, ...steps]) {
    signal?.throwIfAborted();
    if (step > 0) {
      const checkpoint = await loadCheckpoint(join(run, "checkpoints", `step-${String(step).padStart(8, "0")}`));
      restoreParameters(named, checkpoint.tensors, checkpoint.path);
    }
    const responses = await respondWith(policy, options);
    let total = 0;
    for (let from = 0; from < responses.length; from += options.batch) {
      const batch = responseBatch(responses.slice(from, from + options.batch));
      const [p, q] = [await (await own(batch)).data(), await (await base(batch)).data()];
      for (let i = 0; i < p.length; i++) total += p[i]! - q[i]!;
    }
    points.push({
      iteration: step,
      kl: total / responses.length,
      reward: mean((await rewards.score(responses)).total),
    });
    stage?.update(points.length);
  }
  stage?.succeed();
  return points;
}
