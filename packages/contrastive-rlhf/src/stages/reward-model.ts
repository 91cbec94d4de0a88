import {
  compile,
  defined,
  greater,
  mean,
  namedState,
  requireFreeOutput,
  runSteps,
  type StageContext,
  type StageOutput,
  scalarsOf,
  slice,
  type Tensor,
  tensor,
  valueAndGrad,
} from "@trefoil/core";
import { mean as average, rewardModelLoss, standardDeviation } from "../algorithm/index.js";
import { EpisodeEncoder, type PreferenceEpisodes, type PreferenceText } from "../data/index.js";
import { RlhfError } from "../errors.js";
import {
  type EpisodeBatch,
  endBatch,
  hashModelFolder,
  loadScoreModel,
  OpenPolicy,
  saveRewardModel,
  tokensOf,
} from "../models/index.js";
import { batchOfStep, chosenFirst, heaviestBatch, tokensOfPair } from "./batches.js";
import { hashRows } from "./hash-rows.js";
import { makeOptimizer } from "./optimizer.js";
import type { TrainingSettings } from "./sft.js";

export interface RewardModelOptions extends StageContext, StageOutput {
  /** Folder of the policy (or reward model) that the trunk comes from. */
  from: string;
  preferences: readonly PreferenceText[];
  /** Share of pairs, the last ones, that are held out to measure accuracy. */
  heldOut: number;
  /** Coefficient of mean (r⁺ + r⁻)². */
  centre: number;
  labelNoise?: { kind: "conservative" | "robust"; rate: number };
  /** Afterwards: move the mean of all responses' rewards to 0, or also their standard deviation to 1. */
  normalise: "none" | "mean" | "mean-std";
  settings: TrainingSettings;
}

export interface RewardModelResult {
  completed: boolean;
  /** Of the held-out pairs, or of the training pairs where none are held out; undefined when stopped early. */
  heldOut?: { accuracy: number; margin: number; calibration: number; pairs: number; of: "held-out" | "training" };
}

/** Trains a reward model on preferences by the Bradley–Terry loss. */
export async function trainRewardModel(options: RewardModelOptions): Promise<RewardModelResult> {
  const { from, preferences, settings, output, progress, overwrite, centre, labelNoise } = options;
  requireFreeOutput(options);
  using policy = await OpenPolicy.open(from);
  const { model, config } = await loadScoreModel(from, settings.seed);
  using _ = model;
  if (config.experts !== undefined)
    throw new RlhfError("RLHF_MODEL", `${from} is a mixture of experts: give a dense model for the reward model`);
  const encoder = new EpisodeEncoder(policy.tokenizer, policy.eosTokenIds, config.maxPositions, settings.maxLength);
  const pairs = encoder.preferences(preferences);
  if (encoder.truncated > 0)
    progress?.warn(`${encoder.truncated} of ${2 * pairs.length} responses were cut to ${encoder.maxLength} tokens`);
  const held = Math.floor(pairs.length * options.heldOut);
  const training = pairs.slice(0, pairs.length - held);
  if (training.length === 0)
    throw new RlhfError("RLHF_DATA", "no pairs are left to train on: lower heldOut, or give more");
  const parameters = model.parameters();
  const optimizer = makeOptimizer(parameters, settings, settings.steps);
  const step = compile((batch: EpisodeBatch, margin: Tensor) => {
    const { value, grads } = valueAndGrad(() => {
      const scores = model.scores(batch);
      const [chosen, rejected] = [slice(scores, 0, 0, settings.batch), slice(scores, 0, settings.batch)];
      return { ...rewardModelLoss(chosen, rejected, { margin, centre, ...defined({ labelNoise }) }), chosen, rejected };
    }, parameters);
    const { gradientNorm, learningRate } = optimizer.apply(grads);
    const { loss, difference, chosen, rejected } = value;
    const accuracy = mean(greater(difference, 0));
    return {
      loss,
      accuracy,
      margin: mean(difference),
      meanReward: mean(chosen.add(rejected)).mul(0.5),
      gradNorm: gradientNorm,
      learningRate,
    };
  });
  const score = compile((batch: EpisodeBatch) => model.scores(batch));
  const marginsOf = (batch: readonly PreferenceEpisodes[]) => tensor(batch.map(({ margin }) => margin));
  // Too much is refused before the run begins.
  const heaviest = heaviestBatch(training, settings, tokensOfPair);
  step.memory(endBatch(chosenFirst(heaviest)), marginsOf(heaviest));

  const completed = await runSteps(options, {
    title: "reward model",
    shown: { loss: "loss", accuracy: "accuracy", margin: "margin" },
    config: {
      from: await hashModelFolder(from),
      pairs: hashRows(preferences),
      heldOut: held,
      centre,
      labelNoise: labelNoise ?? null,
      settings,
    },
    settings,
    parameters: namedState({ model, optimizer }),
    step: async (index) => {
      const batch = batchOfStep(training, settings, index);
      const episodes = chosenFirst(batch);
      return {
        ...(await scalarsOf(await step(endBatch(episodes), marginsOf(batch)))),
        tokens: tokensOf(episodes),
      };
    },
  });
  if (!completed) return { completed };
  const scores = await scorePairs(pairs, score, 2 * settings.batch);
  const { gain, bias } = normalisation(scores.flat(), options.normalise);
  await saveRewardModel(model, output, { config, gain, bias, tokenizerFrom: from, ...defined({ overwrite }) });
  const judged = (held > 0 ? scores.slice(-held) : scores).map(([chosen, rejected]) => (chosen - rejected) * gain);
  return {
    completed,
    heldOut: {
      accuracy: average(judged.map((d) => (d > 0 ? 1 : d === 0 ? 0.5 : 0))),
      margin: average(judged),
      calibration: average(judged.map((d) => 1 / (1 + Math.exp(-d)))),
      pairs: judged.length,
      of: held > 0 ? "held-out" : "training",
    },
  };
}

async function scorePairs(
  pairs: readonly PreferenceEpisodes[],
  score: (batch: EpisodeBatch) => Promise<Tensor>,
  rows: number,
): Promise<[number, number][]> {
  const episodes = pairs.flatMap(({ chosen, rejected }) => [chosen, rejected]);
  const flat: number[] = [];
  for (let from = 0; from < episodes.length; from += rows) {
    const some = episodes.slice(from, from + rows);
    const scores = await (await score(endBatch(some, rows))).data();
    flat.push(...Array.from(scores.subarray(0, some.length)));
  }
  return pairs.map((_, i) => [flat[2 * i]!, flat[2 * i + 1]!]);
}

function normalisation(
  scores: readonly number[],
  how: RewardModelOptions["normalise"],
): { gain: number; bias: number } {
  if (how === "none") return { gain: 1, bias: 0 };
  const gain = how === "mean-std" ? 1 / Math.max(standardDeviation(scores), 1e-8) : 1;
  return { gain, bias: -gain * average(scores) };
}
