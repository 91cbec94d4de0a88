import { generalisedAdvantages, klEstimators, mean, shapedRewards, whiten } from "../../algorithm/index.js";
import type { PpoSettings } from "./options.js";
import type { Measured, Targets } from "./update.js";

export interface Experience {
  targets: Targets[];
  /** Before whitening, over the tokens of all responses. */
  advantages: number[];
  returns: number[];
  values: number[];
  /** Mean over responses of the sum over tokens of -β k1, and of that plus the reward. */
  nonScoreReward: number;
  rlhfReward: number;
  /** Mean over responses of summed k1 and k3 to the reference. */
  kl: number;
  kl3: number;
  klPerToken: number;
}

/** Per-token rewards, advantages and returns of an iteration. @param rewards one per response, shaped and clipped */
export function makeExperience(
  measured: Measured,
  rewards: readonly number[],
  counts: readonly boolean[],
  klCoefficient: number,
  settings: PpoSettings,
): Experience {
  const { gamma, lambda, kl, whitenAdvantages, whitenRewards, critic } = settings;
  const inReward = kl.where === "reward" ? klCoefficient : 0;
  const { logProbs, referenceLogProbs, values } = measured;
  let perToken = rewards.map((reward, i) => shapedRewards(logProbs[i]!, referenceLogProbs[i]!, reward, inReward));
  const nonScore = perToken.map((row, i) => row.reduce((sum, r) => sum + r, 0) - rewards[i]!);
  if (whitenRewards) perToken = whitenCounted(perToken, counts, false);
  // Without a critic the values are 0 and the whole return is the advantage.
  const episodes = perToken.map((row, i) =>
    generalisedAdvantages(row, values[i]!, gamma, critic.kind === "none" ? 1 : lambda),
  );
  const ofEpisodes = episodes.map((each) => each.advantages);
  const advantages = ofEpisodes.flat();
  const whitened = whitenAdvantages ? whitenCounted(ofEpisodes, counts) : ofEpisodes;
  const k1 = logProbs.map((row, i) => Array.from(row, (p, t) => klEstimators.k1(p, referenceLogProbs[i]![t]!)));
  const k3 = logProbs.map((row, i) => Array.from(row, (p, t) => klEstimators.k3(p, referenceLogProbs[i]![t]!)));
  const total = (row: readonly number[]) => row.reduce((sum, value) => sum + value, 0);
  return {
    targets: episodes.map(({ returns }, i) => ({
      logProbs: logProbs[i]!,
      referenceLogProbs: referenceLogProbs[i]!,
      advantages: Float32Array.from(whitened[i]!),
      values: values[i]!,
      returns: Float32Array.from(returns),
      counts: counts[i]!,
    })),
    advantages,
    returns: episodes.flatMap(({ returns }) => returns),
    values: values.flatMap((row) => Array.from(row)),
    nonScoreReward: mean(nonScore),
    rlhfReward: mean(nonScore) + mean(rewards),
    kl: mean(k1.map(total)),
    kl3: mean(k3.map(total)),
    klPerToken: mean(k1.flat()),
  };
}

/** Rows that count in the loss, whitened over their own tokens; the others, which would shift these, stay as they are. */
function whitenCounted(rows: readonly number[][], counts: readonly boolean[], shiftMean = true): number[][] {
  const flat = whiten(
    rows.flatMap((row, i) => (counts[i] ? row : [])),
    shiftMean,
  );
  let at = 0;
  return rows.map((row, i) => {
    if (!counts[i]) return row;
    at += row.length;
    return flat.slice(at - row.length, at);
  });
}
