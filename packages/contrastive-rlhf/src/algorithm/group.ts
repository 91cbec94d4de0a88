import { mean, standardDeviation } from "./aggregate.js";

/** RLOO: each sample's baseline is the mean of the others (arXiv 2402.14740). Needs two samples or more. */
export function leaveOneOut(rewards: readonly number[]): number[] {
  const total = rewards.reduce((sum, reward) => sum + reward, 0);
  return rewards.map((reward) => (total - reward) / (rewards.length - 1));
}

/** Added to the standard deviation of a group, so that equal rewards give 0. */
const groupEpsilon = 1e-6;

/** GRPO: the group's mean is the baseline and one over its sample standard deviation the scale (arXiv 2402.03300). */
export function groupRelative(rewards: readonly number[]): { baseline: number; scale: number } {
  return { baseline: mean(rewards), scale: 1 / (standardDeviation(rewards, 1) + groupEpsilon) };
}
