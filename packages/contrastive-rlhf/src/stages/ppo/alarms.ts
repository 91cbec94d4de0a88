import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import type { Compared } from "../../algorithm/index.js";
import { RlhfError } from "../../errors.js";
import type { Rollout } from "./rollout.js";

export interface AlarmSettings {
  /** Stop the run when one of its numbers says that it is broken. */
  enabled: boolean;
  /** First iterations in which only broken numbers stop it: a fresh critic explains nothing yet. */
  grace: number;
}

/** Thresholds that practitioners watch; beyond them a run rarely comes back. */
const rules: readonly { metric: string; broken: (value: number, first: number) => boolean; meaning: string }[] = [
  {
    metric: "objective/kl",
    broken: (value) => value < -1,
    meaning: "KL is far below 0: log-probabilities are not those of the sampling distribution",
  },
  {
    metric: "policy/ratio_max",
    broken: (value) => value > 10,
    meaning: "the policy moved too far in one iteration: lower the learning rate or the epochs",
  },
  {
    metric: "policy/clipfrac",
    broken: (value) => value > 0.4,
    meaning: "most of the updates are clipped: lower the learning rate or the epochs",
  },
  {
    metric: "value/explained_variance",
    broken: (value) => value < -1,
    meaning: "the critic is worse than a constant: lower its learning rate, or warm it up",
  },
  {
    metric: "policy/entropy",
    broken: (value, first) => value < 0.1 * first,
    meaning: "the policy has collapsed: raise the KL coefficient",
  },
  {
    metric: "response/stop_rate",
    broken: (value) => value < 0.5,
    meaning: "most responses do not end: allow more tokens, or penalise responses without an end",
  },
];

/** The first thing wrong with an iteration, or undefined. @param first metrics of the first iteration */
export function findAlarm(
  metrics: Readonly<Record<string, number>>,
  first: Readonly<Record<string, number>>,
  iteration: number,
  { enabled, grace }: AlarmSettings,
): string | undefined {
  if (!enabled) return undefined;
  const broken = Object.entries(metrics).find(([, value]) => !Number.isFinite(value));
  if (broken) return `${broken[0]} is ${broken[1]}`;
  if (iteration < grace) return undefined;
  for (const { metric, broken: isBroken, meaning } of rules) {
    const value = metrics[metric];
    if (value !== undefined && isBroken(value, first[metric] ?? value))
      return `${metric} is ${value.toPrecision(3)}: ${meaning}`;
  }
  return undefined;
}

/** The rollouts of an iteration, what each was given, and what that was compared to. */
export interface ScoredBatch {
  rollouts: readonly Rollout[];
  raw: readonly number[];
  compared: readonly Compared[];
  shaped: readonly number[];
}

/** Saves the batch beside the metrics. @param iteration from 0 @returns the file */
export async function saveAlarm(
  run: string,
  iteration: number,
  alarm: string,
  { rollouts, raw, compared, shaped }: ScoredBatch,
  metrics: Readonly<Record<string, number>>,
): Promise<string> {
  const path = join(run, `alarm-${iteration + 1}.json`);
  const samples = rollouts.map(({ promptText, responseText, ended }, i) => ({
    prompt: promptText,
    response: responseText,
    ended,
    reward: raw[i],
    baseline: compared[i]!.baseline,
    shaped: shaped[i],
  }));
  await writeFile(path, `${JSON.stringify({ iteration: iteration + 1, alarm, metrics, samples }, null, 2)}\n`);
  return path;
}

/** Largest |ratio - 1| on the first minibatch, before any update: rounding only. */
const ratioTolerance = 1e-4;

/** @throws RlhfError `RLHF_RATIO` when the policy is not the one that sampled, before its first update; the batch is saved */
export async function requireFirstRatio(
  deviation: number,
  run: string,
  iteration: number,
  batch: ScoredBatch,
): Promise<void> {
  if (deviation <= ratioTolerance) return;
  const fault = `before any update the ratio of new to old probabilities is off 1 by ${deviation}`;
  const path = await saveAlarm(run, iteration, fault, batch, { "policy/ratio_first": deviation });
  throw new RlhfError(
    "RLHF_RATIO",
    `iteration ${iteration + 1}: ${fault}: the log-probabilities are not those of the sampling distribution. The batch is in ${path}`,
  );
}
