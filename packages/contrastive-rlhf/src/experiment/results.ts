import { readResultRows } from "@trefoil/core";
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

/** Rows of an experiment's folder; a line torn by a kill is left out. */
export const readResults = (directory: string): Promise<ResultRow[]> => readResultRows(directory);
