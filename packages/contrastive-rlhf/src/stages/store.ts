import { existsSync } from "node:fs";
import { mkdir, open, readFile } from "node:fs/promises";
import { join } from "node:path";
import { lockDirectory, writeFileAtomic } from "@trefoil/core";
import { z } from "zod";
import { RlhfError } from "../errors.js";

/** What the samples of a store depend on. A store is refused where any of it differs. */
export interface StoreIdentity {
  /** Hash of the SFT policy's folder. */
  sft: string;
  /** Hash of the rewards and their weights. */
  reward: string;
  sampler: { temperature: number; maxNewTokens: number; seed: number };
}

/** The scored samples of one prompt, in the order of their sample numbers. */
export interface StoredSamples {
  responses: string[];
  /** Token ids: other tokens may give the same text. */
  tokens: number[][];
  /** Raw: before penalties, which depend on settings of PPO. */
  rewards: number[];
  ended: boolean[];
}

const format = "contrastive-rlhf baselines 2";

const identitySchema = z.strictObject({
  format: z.literal(format),
  sft: z.string(),
  reward: z.string(),
  sampler: z.strictObject({ temperature: z.number(), maxNewTokens: z.number(), seed: z.number() }),
});

const lineSchema = z.strictObject({
  prompt_id: z.number(),
  /** What the rewards see of the prompt, `RewardSum.promptKey`. */
  key: z.string(),
  /** Of its token ids: all that the responses depend on. */
  prompt_sha: z.string(),
  /** Number of the first sample of this line. */
  first: z.number().int().nonnegative(),
  responses: z.array(z.string()),
  tokens: z.array(z.array(z.number())),
  rewards: z.array(z.number()),
  ended: z.array(z.boolean()),
});
export type StoreLine = z.infer<typeof lineSchema>;

const identityFile = "store.json";
const samplesFile = "samples.jsonl";
const lockFile = "store.lock";

/**
 * Scored samples of the SFT policy by prompt: a folder with what they depend on (`store.json`) and the samples (`samples.jsonl`), to
 * which lines are only ever appended. A kill loses at most the line in the making.
 */
export class BaselineStore implements AsyncDisposable {
  readonly #samples = new Map<string, StoredSamples>();
  /** The same by `prompt_sha`: of the prompt's row with the most samples. */
  readonly #byPrompt = new Map<string, StoredSamples>();
  /** Of a store that was opened to add samples. */
  #unlock: (() => Promise<void>) | undefined;

  private constructor(
    readonly path: string,
    readonly identity: StoreIdentity,
  ) {}

  /** @throws RlhfError `RLHF_STORE` when there is none or it is damaged */
  static async load(path: string): Promise<BaselineStore> {
    if (!existsSync(join(path, identityFile))) {
      throw new RlhfError("RLHF_STORE", `${path} holds no baselines: make them with \`contrastive-rlhf baselines\``);
    }
    let identity: StoreIdentity;
    try {
      const content = JSON.parse(await readFile(join(path, identityFile), "utf8")) as { format?: unknown };
      if (content.format === "contrastive-rlhf baselines 1")
        throw new RlhfError("RLHF_STORE", `${path} was made by an earlier version: make the store anew`);
      const { format: _, ...rest } = identitySchema.parse(content);
      identity = rest;
    } catch (cause) {
      if (cause instanceof RlhfError) throw cause;
      throw new RlhfError("RLHF_STORE", `${join(path, identityFile)} is not what this program writes`, { cause });
    }
    const store = new BaselineStore(path, identity);
    if (existsSync(join(path, samplesFile))) store.#take(await readFile(join(path, samplesFile), "utf8"));
    return store;
  }

  /**
   * Opens a store to add samples, or makes one; a line torn by a kill is removed. Until it is let go of no other process may add any.
   * @throws RlhfError `RLHF_STORE_MISMATCH`; RunDirectoryError `RUN_DIRECTORY_LOCKED`
   */
  static async open(path: string, identity: StoreIdentity): Promise<BaselineStore> {
    await mkdir(path, { recursive: true });
    const unlock = await lockDirectory(join(path, lockFile), new Date());
    try {
      const store = await BaselineStore.#begin(path, identity);
      store.#unlock = unlock;
      return store;
    } catch (error) {
      await unlock();
      throw error;
    }
  }

  static async #begin(path: string, identity: StoreIdentity): Promise<BaselineStore> {
    if (!existsSync(join(path, identityFile))) {
      const content = { format, ...identity };
      await writeFileAtomic(join(path, identityFile), `${JSON.stringify(content, null, 2)}\n`);
    }
    await removeTornLine(join(path, samplesFile));
    const store = await BaselineStore.load(path);
    store.require(identity);
    return store;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#unlock?.();
  }

  /** @throws RlhfError `RLHF_STORE_MISMATCH` saying what differs */
  require({ sft, reward, sampler }: StoreIdentity): void {
    const differs: string[] = [];
    if (sft !== this.identity.sft) differs.push("the SFT policy is another one");
    if (reward !== this.identity.reward) differs.push("the reward model or reward functions are others");
    for (const key of ["temperature", "maxNewTokens", "seed"] as const) {
      const [stored, wanted] = [this.identity.sampler[key], sampler[key]];
      if (stored !== wanted) differs.push(`${key} is ${wanted}, but ${stored} in the store`);
    }
    if (differs.length > 0) {
      throw new RlhfError(
        "RLHF_STORE_MISMATCH",
        `${this.path} does not fit: ${differs.join("; ")}. Make a new store, or use what this one was made with`,
      );
    }
  }

  /** Samples stored for a prompt. @param key `RewardSum.promptKey` of it */
  count(key: string): number {
    return this.#samples.get(key)?.rewards.length ?? 0;
  }

  /** A response to a prompt, whatever the rewards saw of its row; undefined where there is none. @param promptSha of its token ids */
  response(promptSha: string, sample: number): { tokens: Int32Array; ended: boolean } | undefined {
    const { tokens, ended } = this.#byPrompt.get(promptSha) ?? { tokens: [], ended: [] };
    const found = tokens[sample];
    return found && { tokens: Int32Array.from(found), ended: ended[sample]! };
  }

  /** The first `k` samples of a prompt. @param key `RewardSum.promptKey` of it @throws RlhfError `RLHF_STORE_MISMATCH` when there are fewer */
  samples(key: string, k: number): StoredSamples {
    const stored = this.#samples.get(key);
    if (!stored || stored.rewards.length < k) {
      const message = stored
        ? `has ${stored.rewards.length} samples of a prompt, fewer than the ${k} asked for: extend it with \`contrastive-rlhf baselines --samples ${k}\``
        : "does not know one of the prompts (a reward function may depend on all fields of its row): make it for the prompts of this run";
      throw new RlhfError("RLHF_STORE_MISMATCH", `${this.path} ${message}`);
    }
    const { responses, tokens, rewards, ended } = stored;
    return {
      responses: responses.slice(0, k),
      tokens: tokens.slice(0, k),
      rewards: rewards.slice(0, k),
      ended: ended.slice(0, k),
    };
  }

  /** Appends lines and waits until they are on disk. */
  async append(lines: readonly StoreLine[]): Promise<void> {
    const file = await open(join(this.path, samplesFile), "a");
    try {
      const text = lines.map((line) => `${JSON.stringify(line)}\n`).join("");
      await file.appendFile(text);
      await file.sync();
      this.#take(text);
    } finally {
      await file.close();
    }
  }

  #take(text: string): void {
    const lines = text.split("\n");
    // A last line without its end was torn by a kill.
    lines.slice(0, -1).forEach((content, i) => {
      const where = `${join(this.path, samplesFile)}:${i + 1}`;
      let line: StoreLine;
      try {
        line = lineSchema.parse(JSON.parse(content));
      } catch (cause) {
        throw new RlhfError("RLHF_STORE", `${where} is damaged: make the store anew`, { cause });
      }
      const { key, prompt_sha: sha, first, responses, tokens, rewards, ended } = line;
      const stored = this.#samples.get(key) ?? { responses: [], tokens: [], rewards: [], ended: [] };
      if (first !== stored.rewards.length) {
        throw new RlhfError(
          "RLHF_STORE",
          `${where} begins at sample ${first} of a prompt that has ${stored.rewards.length}: make the store anew`,
        );
      }
      stored.responses.push(...responses);
      stored.tokens.push(...tokens);
      stored.rewards.push(...rewards);
      stored.ended.push(...ended);
      this.#samples.set(key, stored);
      if (stored.rewards.length > (this.#byPrompt.get(sha)?.rewards.length ?? 0)) this.#byPrompt.set(sha, stored);
    });
  }
}

async function removeTornLine(path: string): Promise<void> {
  if (!existsSync(path)) return;
  const bytes = await readFile(path);
  const end = bytes.lastIndexOf(0x0a) + 1;
  if (end === bytes.length) return;
  const file = await open(path, "r+");
  try {
    await file.truncate(end);
    await file.sync();
  } finally {
    await file.close();
  }
}
