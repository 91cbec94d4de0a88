import {
  compile,
  greater,
  mean,
  namedState,
  requireFreeOutput,
  reshape,
  rowsOfStep,
  runSteps,
  type StageContext,
  type StageOutput,
  saveModel,
  scalarsOf,
  slice,
  sum,
  type Tensor,
  tensor,
  valueAndGrad,
} from "@trefoil/core";
import { type DpoForm, dpoLoss } from "../algorithm/index.js";
import { EpisodeEncoder, type PreferenceEpisodes, type PreferenceText } from "../data/index.js";
import {
  hashModelFolder,
  OpenPolicy,
  responseLogProbs,
  type SequenceSizes,
  sequenceBatch,
  sizesFor,
} from "../models/index.js";
import { defined } from "./defined.js";
import { makeOptimizer } from "./optimizer.js";
import type { TrainingSettings } from "./sft.js";

export interface DpoOptions extends StageContext, StageOutput {
  /** Folder of the SFT policy: where the policy starts, and its reference. */
  policy: string;
  preferences: readonly PreferenceText[];
  /** Strength of the pull towards the reference. */
  beta: number;
  form: DpoForm;
  settings: TrainingSettings;
}

/** Direct preference optimisation (arXiv 2305.18290). Returns whether it came to the end. */
export async function dpo(options: DpoOptions): Promise<boolean> {
  const { preferences, beta, form, settings, output, progress, overwrite } = options;
  requireFreeOutput(options);
  using policy = await OpenPolicy.open(options.policy);
  const { model, config } = policy;
  const maxLength = Math.min(settings.maxLength, config.maxPositions);
  const encoder = new EpisodeEncoder(policy.tokenizer, policy.eosTokenIds, maxLength);
  const pairs = preferences.map((row) => encoder.preference(row));
  if (encoder.truncated > 0)
    progress?.warn(`${encoder.truncated} of ${2 * pairs.length} responses were cut to ${maxLength} tokens`);
  const sizes = sizesFor(
    pairs.flatMap(({ chosen, rejected }) => [chosen, rejected]),
    2 * settings.batch,
    maxLength,
  );

  const summed = (tokens: Tensor, index: Tensor, targets: Tensor): Tensor => {
    const { logProbs } = responseLogProbs(model, { index, targets }, 1, model.hidden(tokens).hidden);
    return sum(reshape(logProbs, [sizes.rows, sizes.response]), { axes: 1 });
  };
  const reference = await referenceLogProbs(pairs, sizes, compile(summed));
  const parameters = model.parameters();
  const optimizer = makeOptimizer(parameters, settings, settings.steps);
  const step = compile((tokens: Tensor, index: Tensor, targets: Tensor, references: Tensor) => {
    const { value, grads } = valueAndGrad(() => {
      const logProbs = summed(tokens, index, targets);
      const [chosen, rejected] = [slice(logProbs, 0, 0, settings.batch), slice(logProbs, 0, settings.batch)];
      const [referenceChosen, referenceRejected] = [
        slice(references, 0, 0, settings.batch),
        slice(references, 0, settings.batch),
      ];
      return { ...dpoLoss({ chosen, rejected, referenceChosen, referenceRejected }, beta, form), chosen, rejected };
    }, parameters);
    const { gradientNorm, learningRate } = optimizer.apply(grads);
    const { loss, chosenReward, rejectedReward, margin, chosen, rejected } = value;
    return {
      loss,
      gradNorm: gradientNorm,
      learningRate,
      "rewards/chosen": mean(chosenReward),
      "rewards/rejected": mean(rejectedReward),
      "rewards/margins": mean(margin),
      "rewards/accuracies": mean(greater(margin, 0)),
      "logps/chosen": mean(chosen),
      "logps/rejected": mean(rejected),
    };
  });
  const completed = await runSteps(options, {
    title: "dpo",
    config: { policy: await hashModelFolder(options.policy), pairs: pairs.length, beta, form, settings },
    settings,
    parameters: namedState({ model, optimizer }),
    step: async (index) => {
      const rows = rowsOfStep(pairs.length, settings.batch, index, settings.seed);
      const episodes = [...rows.map((row) => pairs[row]!.chosen), ...rows.map((row) => pairs[row]!.rejected)];
      const { tokens, index: at, targets } = sequenceBatch(episodes, sizes);
      const references = tensor([
        ...rows.map((row) => reference[2 * row]!),
        ...rows.map((row) => reference[2 * row + 1]!),
      ]);
      return { ...(await scalarsOf(await step(tokens, at, targets, references))), tokens: tokens.size };
    },
  });
  if (completed) await saveModel(model, output, { config, tokenizerFrom: options.policy, ...defined({ overwrite }) });
  return completed;
}

/** The policy is its own reference before the first update: chosen and rejected of each pair in turn. */
async function referenceLogProbs(
  pairs: readonly PreferenceEpisodes[],
  sizes: SequenceSizes,
  summed: (tokens: Tensor, index: Tensor, targets: Tensor) => Promise<Tensor>,
): Promise<number[]> {
  const episodes = pairs.flatMap(({ chosen, rejected }) => [chosen, rejected]);
  const logProbs: number[] = [];
  for (let from = 0; from < episodes.length; from += sizes.rows) {
    const some = episodes.slice(from, from + sizes.rows);
    const { tokens, index, targets } = sequenceBatch(some, sizes);
    const values = await (await summed(tokens, index, targets)).data();
    for (let i = 0; i < some.length; i++) logProbs.push(values[i]!);
  }
  return logProbs;
}
