import type { StageContext, StageOutput } from "@trefoil/core";
import type { AdaptiveKlOptions, Aggregation, PenaltyOptions, Shaper } from "../../algorithm/index.js";
import type { PromptText } from "../../data/index.js";
import type { RewardFunction, RewardSum } from "../rewards.js";
import type { AlarmSettings } from "./alarms.js";

/** What is subtracted from each prompt's rewards. */
export type BaselineSettings =
  | { kind: "none" }
  /** The contrastive reward: `samples` offline samples of the SFT policy (arXiv 2403.07708). */
  | { kind: "offline"; store: string; samples: number; aggregation: Aggregation }
  /** The reward of a response (or the reward itself) that a field of the prompt's row holds. */
  | { kind: "reference-column"; column: string; aggregation: Aggregation }
  /** The reward of the policy's own greedy response: ReMax, arXiv 2310.10505. */
  | { kind: "greedy" }
  /** The mean of the prompt's other rollouts: RLOO. */
  | { kind: "leave-one-out" }
  /** The mean of the prompt's rollouts, divided by their standard deviation: GRPO. */
  | { kind: "group" };

export interface KlSettings {
  /** Per token in the reward by k1, or in the loss by k2 or k3. */
  where: "reward" | "loss-k2" | "loss-k3";
  /** β; where it starts when adaptive. */
  coefficient: number;
  adaptive?: AdaptiveKlOptions;
}

export interface CriticSettings {
  /** `separate`: a network of its own; `shared`: a head on the policy; `none`: no critic, as RLOO and GRPO. */
  kind: "none" | "separate" | "shared";
  /** Folder that a separate critic starts from: a reward model, or a policy. Default: the SFT policy. */
  from?: string;
  /** First iterations that train the critic only. */
  warmupIterations: number;
  learningRate: number;
  /** Weight of its loss. */
  coefficient: number;
  /** Values may move this far per iteration; undefined: any. */
  clip?: number;
}

export interface PpoSettings {
  iterations: number;
  promptsPerIteration: number;
  /** Rollouts of each prompt. */
  samplesPerPrompt: number;
  /** Passes over the rollouts of an iteration. */
  epochs: number;
  /** Rollouts of one update; divides those of an iteration. */
  minibatch: number;
  /** Of sampling, and of every log-probability. Baselines must have the same. */
  temperature: number;
  maxNewTokens: number;
  gamma: number;
  lambda: number;
  clip: number;
  /** Above 1. */
  dualClip?: number;
  entropyCoefficient: number;
  whitenAdvantages: boolean;
  whitenRewards: boolean;
  /** Leave responses without an end out of the loss. */
  maskTruncated: boolean;
  learningRate: number;
  clipNorm: number;
  /** Final rewards are limited to ±this, after the subtraction. */
  rewardClip?: number;
  seed: number;
  kl: KlSettings;
  critic: CriticSettings;
  baseline: BaselineSettings;
  shaper: Shaper;
  penalties: PenaltyOptions;
  alarms: AlarmSettings;
  checkpointEvery: number;
  keepCheckpoints: number;
}

/** PPO as the reference implementations set it (arXiv 2403.17031): defaults of the command, and what experiments share. */
export const plainPpo = {
  samplesPerPrompt: 1,
  epochs: 4,
  temperature: 1,
  gamma: 1,
  lambda: 0.95,
  clip: 0.2,
  entropyCoefficient: 0,
  whitenAdvantages: true,
  whitenRewards: false,
  maskTruncated: false,
  clipNorm: 1,
  shaper: { kind: "identity" },
} as const satisfies Partial<PpoSettings>;

export interface PpoOptions extends StageContext, StageOutput {
  /** Folder of the SFT policy: where the policy starts, and the reference of the KL penalty. */
  policy: string;
  rewards: RewardSum;
  prompts: readonly PromptText[];
  settings: PpoSettings;
  /** True quality, only to be logged: no gradient, baseline or decision sees it. */
  gold?: RewardFunction;
}
