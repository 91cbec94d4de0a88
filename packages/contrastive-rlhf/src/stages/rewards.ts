import { createHash } from "node:crypto";
import { resolve } from "node:path";
import { pathToFileURL } from "node:url";
import { compile, type Tokenizer } from "@trefoil/core";
import type { PromptTokens } from "../data/index.js";
import { RlhfError } from "../errors.js";
import {
  type Episode,
  type EpisodeBatch,
  endBatch,
  hashModelFolder,
  hashTokens,
  OpenRewardModel,
} from "../models/index.js";
import { hashModule } from "./module-hash.js";

/** What a reward is asked about. */
export interface ScoredSample extends Episode {
  promptText: string;
  responseText: string;
  /** Whether the response ended by itself. */
  ended: boolean;
  /** The fields of the prompt's row. */
  row: Readonly<Record<string, unknown>>;
}

/** Gives every sample a number. */
export interface Reward extends Partial<Disposable> {
  readonly name: string;
  /** Equal exactly for rewards that score alike: guards baseline stores. */
  readonly hash: string;
  /** Hash of the tokenizer whose ids it reads, and nothing else of a sample; undefined for one that may read texts and rows. */
  readonly tokenizer?: string;
  score(samples: readonly ScoredSample[]): Promise<readonly number[]>;
}

/** A reward with its share in the sum. */
export interface WeightedReward {
  reward: Reward;
  weight: number;
}

/** Numbers for samples, in their order. */
export type RewardFunction = (
  samples: readonly Omit<ScoredSample, "prompt" | "response">[],
) => readonly number[] | Promise<readonly number[]>;

/** A plain function as a reward. @param hash of what it does; two functions of one hash are taken to be the same */
export function functionReward(name: string, hash: string, score: RewardFunction): Reward {
  return { name, hash, score: async (samples) => await score(samples) };
}

/**
 * The default export of a module: `(samples) => numbers`, async or not. TypeScript needs a Node that runs it, 22.18 or newer.
 * Its hash covers the files that it imports by a path, not packages, nor what it reads while it runs.
 * @throws RlhfError `RLHF_REWARD` when there is none
 */
export async function loadRewardFunction(path: string): Promise<Reward> {
  const file = resolve(path);
  let module: { default?: unknown };
  try {
    module = (await import(pathToFileURL(file).href)) as { default?: unknown };
  } catch (cause) {
    const unknown = (cause as NodeJS.ErrnoException).code === "ERR_UNKNOWN_FILE_EXTENSION";
    const hint = unknown ? "; Node 22.18 or newer runs TypeScript, this one needs it compiled" : "";
    throw new RlhfError("RLHF_REWARD", `the reward function ${path} cannot be loaded${hint}`, { cause });
  }
  if (typeof module.default !== "function")
    throw new RlhfError("RLHF_REWARD", `${path} has no default export that is a function of samples`);
  return functionReward(path, await hashModule(file), module.default as RewardFunction);
}

/**
 * A reward model folder as a reward, `rows` samples at a time.
 * @throws RlhfError `RLHF_MODEL` when it is no reward model, or reads other tokens than the policy
 */
export async function loadModelReward(path: string, tokenizer: Tokenizer, rows = 64): Promise<Reward> {
  const opened = await OpenRewardModel.open(path);
  if (opened.tokenizer.hash !== tokenizer.hash) {
    opened[Symbol.dispose]();
    throw new RlhfError(
      "RLHF_MODEL",
      `the reward model ${path} has another tokenizer than the policy: train it from the same one`,
    );
  }
  const hash = await hashModelFolder(path);
  const { model, bias } = opened;
  const run = compile((batch: EpisodeBatch) => model.scores(batch));
  return {
    name: path,
    hash,
    tokenizer: tokenizer.hash,
    async score(samples) {
      const scores: number[] = [];
      const { maxPositions } = model.trunk.config;
      for (let from = 0; from < samples.length; from += rows) {
        const some = samples.slice(from, from + rows);
        const longest = Math.max(...some.map(({ prompt, response }) => prompt.length + response.length));
        if (longest > maxPositions) {
          throw new RlhfError(
            "RLHF_MODEL",
            `the reward model ${path} reads ${maxPositions} tokens, but a prompt with its response has ${longest}: shorten them, or train one with a longer context`,
          );
        }
        const values = await (await run(endBatch(some, rows))).data();
        for (let i = 0; i < some.length; i++) scores.push(values[i]! + bias);
      }
      return scores;
    },
    [Symbol.dispose]: () => opened[Symbol.dispose](),
  };
}

/** The weighted sum of rewards and each part, checked. */
export class RewardSum implements Disposable {
  readonly #parts: readonly WeightedReward[];
  readonly hash: string;

  constructor(parts: readonly WeightedReward[]) {
    if (parts.length === 0)
      throw new RlhfError("RLHF_OPTIONS", "give at least one reward: a reward model's folder, or a module");
    this.#parts = parts;
    this.hash = createHash("sha256")
      .update(JSON.stringify(parts.map(({ reward, weight }) => [reward.hash, weight])))
      .digest("hex");
  }

  /** @throws RlhfError `RLHF_REWARD` when a reward throws, or gives something else than one finite number per sample */
  async score(
    samples: readonly ScoredSample[],
  ): Promise<{ total: number[]; parts: Record<string, readonly number[]> }> {
    const total = new Array<number>(samples.length).fill(0);
    const parts: Record<string, readonly number[]> = {};
    for (const { reward, weight } of this.#parts) {
      const scores = await scoreChecked(reward, samples);
      parts[reward.name] = scores;
      scores.forEach((score, i) => {
        total[i]! += weight * score;
      });
    }
    return { total, parts };
  }

  /** @throws RlhfError `RLHF_MODEL` when a reward reads other ids than those of this tokenizer */
  requireTokenizer({ hash }: Tokenizer, policy: string): void {
    for (const { reward } of this.#parts) {
      if (reward.tokenizer === undefined || reward.tokenizer === hash) continue;
      throw new RlhfError("RLHF_MODEL", `${policy} has another tokenizer than the reward model ${reward.name}`);
    }
  }

  /** Equal for prompts that are the same to the rewards: models read token ids, functions may read the text and the row. */
  promptKey({ tokens, prompt, row }: PromptTokens): string {
    const ids = hashTokens(tokens);
    if (this.#parts.every(({ reward }) => reward.tokenizer !== undefined)) return ids;
    return createHash("sha256")
      .update(JSON.stringify([ids, prompt, row], sortedKeys))
      .digest("hex");
  }

  get names(): string[] {
    return this.#parts.map(({ reward }) => reward.name);
  }

  [Symbol.dispose](): void {
    for (const { reward } of this.#parts) reward[Symbol.dispose]?.();
  }
}

/** For JSON: fields in one order, whichever they have in a file. */
const sortedKeys = (_: string, value: unknown): unknown =>
  typeof value === "object" && value !== null && !Array.isArray(value)
    ? Object.fromEntries(Object.entries(value).sort(([a], [b]) => (a < b ? -1 : 1)))
    : value;

async function scoreChecked(reward: Reward, samples: readonly ScoredSample[]): Promise<readonly number[]> {
  let scores: readonly number[];
  try {
    scores = await reward.score(samples);
  } catch (cause) {
    if (cause instanceof RlhfError) throw cause;
    throw new RlhfError("RLHF_REWARD", `the reward ${reward.name} failed on ${samples.length} samples`, { cause });
  }
  if (!Array.isArray(scores) || scores.length !== samples.length) {
    const got = Array.isArray(scores) ? `${scores.length} scores` : typeof scores;
    throw new RlhfError(
      "RLHF_REWARD",
      `the reward ${reward.name} gave ${got} for ${samples.length} samples; it must give one number each`,
    );
  }
  const bad = scores.findIndex((score) => !Number.isFinite(score));
  if (bad >= 0) {
    const { promptText, responseText } = samples[bad]!;
    throw new RlhfError(
      "RLHF_REWARD",
      `the reward ${reward.name} gave ${String(scores[bad])} for the response ${JSON.stringify(responseText.slice(0, 200))} to ${JSON.stringify(promptText.slice(0, 200))}`,
    );
  }
  return scores;
}
