import { existsSync } from "node:fs";
import { appendFile, readFile } from "node:fs/promises";
import { join } from "node:path";
import type { GradientVariance } from "../stages/index.js";

/** One trained arm of one seed: a line of `results.jsonl`. */
export interface ResultRow {
  cell: string;
  arm: string;
  seed: number;
  /** Mean true quality on held-out prompts; that of SFT for an arm that broke, which `failure` then says. */
  gold: number;
  /** True quality and length of each held-out response, two to a prompt. */
  golds: number[];
  lengths: number[];
  reward: number;
  /** How many responses the rewards were asked about, offline samples included. */
  scored: number;
  /** CPU seconds of training, of this process. */
  seconds: number;
  /** Hash of the weights. */
  weights: string;
  /** Of PPO arms: KL to the SFT policy, nats per response, and true quality of rollouts; means of ten iterations each. */
  frontier?: (readonly [kl: number, gold: number])[];
  rho?: number;
  /** Of SFT: mean reward of its responses to each held-out prompt, what the paper calls the offline reward. */
  offline?: number[];
  /** Of SFT: variance of policy gradients with contrast over that without. */
  gradient?: GradientVariance[];
  /** Of SFT under flips: accuracy of the reward model on clean pairs. */
  rewardAccuracy?: number;
  failure?: string;
}

export const resultKey = ({ cell, arm, seed }: Pick<ResultRow, "cell" | "arm" | "seed">): string =>
  `${seed} ${cell} ${arm}`;

const fileOf = (directory: string): string => join(directory, "results.jsonl");

export async function readResults(directory: string): Promise<ResultRow[]> {
  if (!existsSync(fileOf(directory))) return [];
  // A line torn by a kill is left out, and its arm run again.
  return (await readFile(fileOf(directory), "utf8")).split("\n").flatMap((line) => {
    try {
      return [JSON.parse(line) as ResultRow];
    } catch {
      return [];
    }
  });
}

/** The line feed before a row ends a line that a kill has torn. */
export async function appendResult(directory: string, row: ResultRow): Promise<void> {
  await appendFile(fileOf(directory), `\n${JSON.stringify(row)}\n`);
}
