import { createHash } from "node:crypto";
import {
  aggregate,
  type Compared,
  groupRelative,
  leaveOneOut,
  type PenaltyOptions,
  penalise,
  rewardVariance,
  varianceRatio,
} from "../../algorithm/index.js";
import type { EpisodeEncoder, PromptTokens } from "../../data/index.js";
import { RlhfError } from "../../errors.js";
import type { OpenPolicy, Sampler } from "../../models/index.js";
import type { RewardSum, ScoredSample } from "../rewards.js";
import { BaselineStore, type StoreIdentity } from "../store.js";
import type { BaselineSettings } from "./options.js";
import { type Rollout, type RolloutSettings, rollOut } from "./rollout.js";

/** Says what each rollout's score is compared to. */
export interface BaselineProvider {
  /** @param scores after penalties, in the order of the rollouts; those of one prompt stand together */
  compare(rollouts: readonly Rollout[], scores: readonly number[], rollout: RolloutSettings): Promise<Compared[]>;
  /** Hash of what it compares with, where that was made before the run: a run is resumed with the same only. */
  readonly hash?: string;
  /** ρ and the predicted variance ratio, where there are offline samples. */
  readonly contrast?: { rho: number; predictedVarianceRatio: number };
}

export interface ProviderContext {
  policy: OpenPolicy;
  sampler: Sampler;
  rewards: RewardSum;
  prompts: readonly PromptTokens[];
  penalties: PenaltyOptions;
  samplesPerPrompt: number;
  /** What an offline store must have been made with. */
  identity: Omit<StoreIdentity, "sampler">;
  rollout: Pick<RolloutSettings, "temperature" | "maxNewTokens">;
  encoder: EpisodeEncoder;
}

const plain = { baseline: 0, references: [], scale: 1 };

/** @throws RlhfError `RLHF_STORE`, `RLHF_STORE_MISMATCH`, `RLHF_OPTIONS`, `RLHF_DATA` */
export async function makeProvider(settings: BaselineSettings, context: ProviderContext): Promise<BaselineProvider> {
  switch (settings.kind) {
    case "none":
      return { compare: async (_, scores) => scores.map((score) => ({ score, ...plain })) };
    case "offline":
      return await offline(settings, context);
    case "reference-column":
      return await referenceColumn(settings, context);
    case "greedy":
      return greedy(context);
    case "leave-one-out":
    case "group": {
      const { samplesPerPrompt: size } = context;
      if (size < 2)
        throw new RlhfError(
          "RLHF_OPTIONS",
          `the baseline ${settings.kind} compares rollouts of one prompt: set samplesPerPrompt to 2 or more`,
        );
      return { compare: async (_, scores) => inGroups(scores, size, settings.kind) };
    }
  }
}

function inGroups(scores: readonly number[], size: number, kind: "leave-one-out" | "group"): Compared[] {
  return scores.map((score, i) => {
    const from = i - (i % size);
    const group = scores.slice(from, from + size);
    if (kind === "group") return { score, references: [], ...groupRelative(group) };
    return { score, ...plain, baseline: leaveOneOut(group)[i - from]! };
  });
}

/** Looks every prompt up before the run starts: an iteration reads one number per rollout. */
async function offline(
  { store: path, samples: k, aggregation }: Extract<BaselineSettings, { kind: "offline" }>,
  { prompts, penalties, rewards, identity, rollout }: ProviderContext,
): Promise<BaselineProvider> {
  const store = await BaselineStore.load(path);
  store.require({ ...identity, sampler: { ...rollout, seed: store.identity.sampler.seed } });
  const known = new Map<string, { baseline: number; references: number[] }>();
  const ofRow = new Map<PromptTokens["row"], { baseline: number; references: number[] }>();
  for (const prompt of prompts) {
    const key = rewards.promptKey(prompt);
    const { rewards: raw, tokens, ended } = store.samples(key, k);
    const references = raw.map((reward, j) =>
      penalise(reward, { length: tokens[j]!.length, ended: ended[j]! }, penalties),
    );
    const found = known.get(key) ?? { baseline: aggregate(references, aggregation), references };
    known.set(key, found);
    ofRow.set(prompt.row, found);
  }
  const hash = createHash("sha256").update(JSON.stringify([...known]));
  const { rho } = rewardVariance([...known.values()].map(({ references }) => references));
  return {
    compare: async (rollouts, scores) =>
      rollouts.map(({ row }, i) => ({ score: scores[i]!, scale: 1, ...ofRow.get(row)! })),
    hash: hash.digest("hex"),
    ...(Number.isFinite(rho) && { contrast: { rho, predictedVarianceRatio: varianceRatio(rho, k) } }),
  };
}

async function referenceColumn(
  { column, aggregation }: Extract<BaselineSettings, { kind: "reference-column" }>,
  { prompts, policy, penalties, rewards, encoder }: ProviderContext,
): Promise<BaselineProvider> {
  // By row: rows of one prompt may have references, and rewards, of their own.
  const known = new Map<PromptTokens["row"], { baseline: number; references: number[] }>();
  for (const prompt of prompts) {
    const value = prompt.row[column];
    const entries: unknown[] = Array.isArray(value) ? value : [value];
    const texts = entries.filter((entry) => typeof entry === "string");
    const numbers = entries.filter((entry) => typeof entry === "number");
    if (entries.length === 0 || texts.length + numbers.length !== entries.length) {
      throw new RlhfError(
        "RLHF_DATA",
        `row ${prompt.line}: "${column}" must hold a response, a reward, or a list of either`,
      );
    }
    const samples: ScoredSample[] = texts.map((responseText) => {
      const { response } = encoder.demonstration({ ...prompt, completion: responseText });
      return {
        prompt: prompt.tokens,
        response,
        promptText: prompt.prompt,
        responseText,
        ended: policy.eosTokenIds.includes(response.at(-1)!),
        row: prompt.row,
      };
    });
    const scored = samples.length > 0 ? (await rewards.score(samples)).total : [];
    const references = [
      ...numbers,
      ...scored.map((raw, i) =>
        penalise(raw, { length: samples[i]!.response.length, ended: samples[i]!.ended }, penalties),
      ),
    ];
    known.set(prompt.row, { baseline: aggregate(references, aggregation), references });
  }
  return {
    compare: async (rollouts, scores) =>
      rollouts.map(({ row }, i) => ({ score: scores[i]!, scale: 1, ...known.get(row)! })),
  };
}

/** One more response per prompt and iteration, without chance. */
function greedy({ policy, sampler, rewards, penalties, samplesPerPrompt }: ProviderContext): BaselineProvider {
  return {
    async compare(rollouts, scores, settings) {
      const firsts = rollouts.filter((_, i) => i % samplesPerPrompt === 0);
      const prompts = firsts.map(({ prompt, promptText, row }) => ({
        tokens: prompt,
        prompt: promptText,
        row,
        line: 0,
        templated: false,
      }));
      const answers = await rollOut(sampler, policy, prompts, 1, { ...settings, temperature: 0 });
      const { total } = await rewards.score(answers);
      const baselines = answers.map(({ response, ended }, i) =>
        penalise(total[i]!, { length: response.length, ended }, penalties),
      );
      return scores.map((score, i) => ({ score, ...plain, baseline: baselines[Math.floor(i / samplesPerPrompt)]! }));
    },
  };
}
