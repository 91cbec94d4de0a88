import type { StageContext } from "@trefoil/core";
import { type RewardVariance, recommendedSamples, rewardVariance, varianceRatio } from "../algorithm/index.js";
import { EpisodeEncoder, longestOf, type PromptText } from "../data/index.js";
import { RlhfError } from "../errors.js";
import {
  hashModelFolder,
  hashTokens,
  OpenPolicy,
  type SampledResponse,
  type SampleRequest,
  Sampler,
} from "../models/index.js";
import type { RewardSum, ScoredSample } from "./rewards.js";
import { BaselineStore, type StoreIdentity, type StoreLine } from "./store.js";

export interface SamplingOptions {
  temperature: number;
  maxNewTokens: number;
  /** Key of the random numbers. */
  seed: number;
}

/** Random numbers of baselines: rollouts use the numbers of their iteration, from 1. */
const baselineStream = 0;

export interface BaselineOptions extends StageContext {
  /** Folder of the frozen SFT policy. */
  policy: string;
  rewards: RewardSum;
  prompts: readonly PromptText[];
  /** Samples of each prompt, k. */
  samples: number;
  sampler: SamplingOptions;
  /** Responses sampled at a time. */
  batch: number;
  /** Folder of the store; one that is there already is completed or extended. */
  store: string;
  /** Store of the same policy and sampler, whose responses are scored by these rewards instead of sampling them again. */
  responsesFrom?: string;
}

export interface BaselineResult extends RewardVariance {
  completed: boolean;
  prompts: number;
  /** Samples drawn by this call, and the seconds that took. */
  drawn: number;
  seconds: number;
  /** (1 + 1/k) / (1 + ρ). */
  predictedVarianceRatio: number;
  recommendedSamples: number;
  meanReward: number;
}

/** Samples k responses per prompt from the SFT policy, scores them, and keeps them for PPO (arXiv 2403.07708: offline sampling). */
export async function sampleBaselines(options: BaselineOptions): Promise<BaselineResult> {
  const { samples: k, sampler: settings, rewards, progress, signal } = options;
  const startedAt = performance.now();
  using policy = await OpenPolicy.open(options.policy);
  const encoder = new EpisodeEncoder(policy.tokenizer, policy.eosTokenIds, policy.model.config.maxPositions);
  const prompts = encoder.prompts(options.prompts, settings.maxNewTokens);
  const identity: StoreIdentity = {
    sft: await hashModelFolder(options.policy),
    reward: rewards.hash,
    sampler: settings,
  };
  await using store = await BaselineStore.open(options.store, identity);
  const source = options.responsesFrom === undefined ? undefined : await BaselineStore.load(options.responsesFrom);
  source?.require({ ...identity, reward: source.identity.reward });

  // A prompt that occurs twice, and is the same to the rewards, has one set of samples.
  const unique = new Map(
    prompts.map((prompt, id) => [rewards.promptKey(prompt), { ...prompt, id, sha: hashTokens(prompt.tokens) }]),
  );
  const jobs = [...unique].flatMap(([key, prompt]) =>
    Array.from({ length: Math.max(0, k - store.count(key)) }, (_, i) => ({
      key,
      prompt,
      sample: store.count(key) + i,
    })),
  );
  if (source) {
    const missing = jobs.filter(({ prompt, sample }) => source.response(prompt.sha, sample) === undefined).length;
    if (missing > 0 && missing === jobs.length) {
      throw new RlhfError(
        "RLHF_STORE_MISMATCH",
        `${options.responsesFrom} has none of the ${missing} responses that are wanted: it was made for other prompts, or for fewer samples of each`,
      );
    }
    if (missing > 0)
      progress?.warn(
        `${options.responsesFrom} does not have ${missing} of the ${jobs.length} responses that are wanted: these are sampled`,
      );
  }
  const stage = progress?.stage("baselines", {
    total: unique.size * k,
    done: unique.size * k - jobs.length,
    unit: "samples",
  });
  using sampler = new Sampler(
    policy.model,
    options.batch,
    longestOf(prompts, ({ tokens }) => tokens.length),
    settings.maxNewTokens,
  );
  const responsesTo = async (some: readonly (typeof jobs)[number][]): Promise<SampledResponse[]> => {
    const known = some.map(({ prompt, sample }) => source?.response(prompt.sha, sample));
    const missing: SampleRequest[] = some.flatMap(({ prompt, sample }, i) =>
      known[i] ? [] : [{ prompt: prompt.tokens, sample }],
    );
    const fresh = await sampler.sample(missing, {
      ...settings,
      eosTokenIds: policy.eosTokenIds,
      stream: baselineStream,
    });
    return known.map((response) => response ?? fresh.shift()!);
  };
  let drawn = 0;
  for (; drawn < jobs.length && !signal?.aborted; drawn = Math.min(drawn + options.batch, jobs.length)) {
    const some = jobs.slice(drawn, drawn + options.batch);
    const responses = await responsesTo(some);
    const scored: ScoredSample[] = some.map(({ prompt }, i) => ({
      prompt: prompt.tokens,
      response: responses[i]!.tokens,
      promptText: prompt.prompt,
      responseText: policy.tokenizer.decode(responses[i]!.tokens),
      ended: responses[i]!.ended,
      row: prompt.row,
    }));
    const { total } = await rewards.score(scored);
    const lines = new Map<string, StoreLine>();
    some.forEach(({ key, prompt, sample }, i) => {
      const empty = {
        prompt_id: prompt.id,
        key,
        prompt_sha: prompt.sha,
        first: sample,
        responses: [],
        tokens: [],
        rewards: [],
        ended: [],
      };
      const line: StoreLine = lines.get(key) ?? empty;
      line.responses.push(scored[i]!.responseText);
      line.tokens.push([...scored[i]!.response]);
      line.rewards.push(total[i]!);
      line.ended.push(scored[i]!.ended);
      lines.set(key, line);
    });
    await store.append([...lines.values()]);
    stage?.update(unique.size * k - jobs.length + drawn + some.length);
  }
  if (drawn < jobs.length) {
    stage?.fail(`stopped with ${jobs.length - drawn} samples to go`);
    return { completed: false, prompts: unique.size, drawn, seconds: seconds(startedAt), ...unknown };
  }
  stage?.succeed();
  const rows = [...unique.keys()].map((key) => store.samples(key, k).rewards);
  const spread = rewardVariance(rows);
  const all = rows.flat();
  return {
    completed: true,
    prompts: unique.size,
    drawn,
    seconds: seconds(startedAt),
    ...spread,
    predictedVarianceRatio: varianceRatio(spread.rho, k),
    recommendedSamples: recommendedSamples(spread.rho),
    meanReward: all.reduce((sum, reward) => sum + reward, 0) / all.length,
  };
}

const seconds = (since: number): number => (performance.now() - since) / 1000;
const unknown = {
  between: Number.NaN,
  within: Number.NaN,
  rho: Number.NaN,
  predictedVarianceRatio: Number.NaN,
  recommendedSamples: Number.NaN,
  meanReward: Number.NaN,
};

const counted = (count: number, what: string): string => `${count} ${what}${count === 1 ? "" : "s"}`;

/** What a user should know of a store, in sentences; the last may be a warning. */
export function describeBaselines(result: BaselineResult, k: number): { text: string; warning?: string } {
  const {
    rho,
    predictedVarianceRatio: ratio,
    recommendedSamples: recommended,
    drawn,
    seconds: spent,
    prompts,
  } = result;
  const number = (value: number) => value.toFixed(3);
  const made = `${counted(prompts, "prompt")}, ${counted(k, "sample")} each (${drawn} drawn in ${spent.toFixed(1)} s).`;
  if (k < 2) return { text: `${made} ρ needs two samples per prompt or more.` };
  if (prompts < 2) return { text: `${made} ρ needs two prompts or more.` };
  if (Number.isNaN(rho))
    return { text: `${made} All rewards are the same: there is nothing to compare, nor to learn.` };
  const text =
    `${made} ρ = ${number(rho)} (between-prompt over within-prompt variance); ` +
    `contrast should change the variance of rewards by a factor ${number(ratio)}. Recommended: k = ${recommended}.`;
  const warning = `ρ k = ${number(rho * k)} is below 1: the baselines add more noise than they remove. Take k = ${recommended}, or plain PPO`;
  return { text, ...(rho * k < 1 && { warning }) };
}
