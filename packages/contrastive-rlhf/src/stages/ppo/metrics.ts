import { type Compared, explainedVariance, mean, quantile, standardDeviation } from "../../algorithm/index.js";
import type { Experience } from "./experience.js";
import type { PpoSettings } from "./options.js";
import type { Rollout } from "./rollout.js";
import type { UpdateMetrics } from "./update.js";

/** Seconds of an iteration's parts. */
export class Clock {
  #at = performance.now();
  readonly #times: Record<string, number> = {};

  lap(name: string): void {
    const now = performance.now();
    this.#times[`time/${name}`] = (this.#times[`time/${name}`] ?? 0) + (now - this.#at) / 1000;
    this.#at = now;
  }

  /** Seconds by part. */
  times(): Record<string, number> {
    return this.#times;
  }
}

export function updateMetrics(updates: readonly UpdateMetrics[], { critic }: PpoSettings) {
  const of = (name: keyof UpdateMetrics) => mean(updates.map((update) => update[name]));
  const last = updates.at(-1)!;
  return {
    "loss/policy": of("policyLoss"),
    "policy/approxkl_k1": of("approxKl1"),
    "policy/approxkl_k2": of("approxKl2"),
    "policy/approxkl_k3": of("approxKl3"),
    "policy/clipfrac": of("clipFraction"),
    "policy/ratio_mean": of("ratioMean"),
    "policy/ratio_max": Math.max(...updates.map(({ ratioMax }) => ratioMax)),
    "policy/ratio_first": updates[0]!.ratioDeviation,
    "policy/grad_norm": of("policyGradientNorm"),
    "lr/policy": last.policyLearningRate,
    ...(critic.kind !== "none" && {
      "loss/value": of("valueLoss"),
      "value/clipfrac": of("valueClipFraction"),
      "value/grad_norm": of("valueGradientNorm"),
      "lr/value": last.valueLearningRate,
    }),
  };
}

export function rewardMetrics(
  raw: readonly number[],
  parts: Readonly<Record<string, readonly number[]>>,
  compared: readonly Compared[],
  shaped: readonly number[],
) {
  const named = Object.entries(parts);
  return {
    "objective/scores": mean(raw),
    "rewards/contrastive/mean": mean(shaped),
    "rewards/contrastive/std": standardDeviation(shaped),
    "rewards/baseline/mean": mean(compared.map(({ baseline }) => baseline)),
    "rewards/frac_above_baseline": mean(compared.map(({ score, baseline }) => Number(score > baseline))),
    ...(named.length > 1 &&
      Object.fromEntries(
        named.flatMap(([name, scores]) => [
          [`rewards/${name}/mean`, mean(scores)],
          [`rewards/${name}/std`, standardDeviation(scores)],
        ]),
      )),
  };
}

export function responseMetrics(rollouts: readonly Rollout[]) {
  const lengths = rollouts.map(({ response }) => response.length);
  const stopRate = mean(rollouts.map(({ ended }) => Number(ended)));
  return {
    "response/length_mean": mean(lengths),
    "response/length_p95": quantile(lengths, 0.95),
    "response/length_max": Math.max(...lengths),
    "response/stop_rate": stopRate,
    "response/truncated_rate": 1 - stopRate,
  };
}

export function experienceMetrics(experience: Experience, { critic }: PpoSettings) {
  const { advantages, returns, values } = experience;
  return {
    "objective/kl": experience.kl,
    "objective/kl_k3": experience.kl3,
    "objective/kl_per_token": experience.klPerToken,
    "objective/non_score_reward": experience.nonScoreReward,
    "objective/rlhf_reward": experience.rlhfReward,
    "advantages/mean": mean(advantages),
    "advantages/std": standardDeviation(advantages),
    "returns/mean": mean(returns),
    "returns/std": standardDeviation(returns),
    ...(critic.kind !== "none" && { "value/explained_variance": explainedVariance(returns, values) }),
  };
}

/** How true quality stands to rewards, and to one SFT response per prompt: 1 is a win, ½ a tie. */
export function goldMetrics(gold: readonly number[], ofSft: readonly number[], raw: readonly number[]) {
  const product = mean(gold.map((value, i) => (value - mean(gold)) * (raw[i]! - mean(raw))));
  const scale = standardDeviation(gold) * standardDeviation(raw);
  return {
    "gold/mean": mean(gold),
    "gold/win_rate_vs_sft": mean(gold.map((value, i) => (Math.sign(value - ofSft[i]!) + 1) / 2)),
    "proxy_gold/pearson": scale > 0 ? product / scale : 0,
  };
}
