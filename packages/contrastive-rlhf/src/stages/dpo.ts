import {
  compile,
  defined,
  greater,
  mean,
  namedState,
  requireFreeOutput,
  reshape,
  runSteps,
  type StageContext,
  type StageOutput,
  saveModel,
  scalarsOf,
  scatterAddRows,
  slice,
  type Tensor,
  tensor,
  valueAndGrad,
  zeros,
} from "@trefoil/core";
import { type DpoForm, dpoLoss } from "../algorithm/index.js";
import { EpisodeEncoder, type PreferenceEpisodes, type PreferenceText } from "../data/index.js";
import {
  type Episode,
  hashModelFolder,
  OpenPolicy,
  type ResponseBatch,
  responseBatch,
  responseLogProbs,
  statesRead,
  tokensOf,
} from "../models/index.js";
import { batchOfStep, chosenFirst, heaviestBatch, tokensOfPair } from "./batches.js";
import { hashRows } from "./hash-rows.js";
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
  const encoder = new EpisodeEncoder(policy.tokenizer, policy.eosTokenIds, config.maxPositions, settings.maxLength);
  const pairs = encoder.preferences(preferences);
  if (encoder.truncated > 0)
    progress?.warn(`${encoder.truncated} of ${2 * pairs.length} responses were cut to ${encoder.maxLength} tokens`);

  const rows = 2 * settings.batch;
  const summed = ({ batch, owners }: PairBatch): Tensor => {
    const { logProbs } = responseLogProbs(model, batch, 1, statesRead(model, batch));
    return reshape(scatterAddRows(reshape(logProbs, [-1, 1]), owners, rows), [rows]);
  };
  const parameters = model.parameters();
  const optimizer = makeOptimizer(parameters, settings, settings.steps);
  const step = compile((batch: PairBatch, references: Tensor) => {
    const { value, grads } = valueAndGrad(() => {
      const logProbs = summed(batch);
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
  // Too much is refused before the run begins.
  step.memory(pairBatch(chosenFirst(heaviestBatch(pairs, settings, tokensOfPair))), zeros([rows]));
  const reference = await referenceLogProbs(pairs, rows, compile(summed));
  const referenced = pairs.map((pair, i) => ({ ...pair, references: reference.slice(2 * i, 2 * i + 2) }));
  const completed = await runSteps(options, {
    title: "dpo",
    shown: { loss: "loss", accuracy: "rewards/accuracies", margin: "rewards/margins" },
    config: { policy: await hashModelFolder(options.policy), pairs: hashRows(preferences), beta, form, settings },
    settings,
    parameters: namedState({ model, optimizer }),
    step: async (index) => {
      const drawn = batchOfStep(referenced, settings, index);
      const episodes = chosenFirst(drawn);
      const references = tensor([0, 1].flatMap((which) => drawn.map((pair) => pair.references[which]!)));
      return { ...(await scalarsOf(await step(pairBatch(episodes), references))), tokens: tokensOf(episodes) };
    },
  });
  if (completed) await saveModel(model, output, { config, tokenizerFrom: options.policy, ...defined({ overwrite }) });
  return completed;
}

interface PairBatch {
  batch: ResponseBatch;
  /** i32 [n]: the episode of each response token; -1 behind the last. */
  owners: Tensor;
}

function pairBatch(episodes: readonly Episode[]): PairBatch {
  const batch = responseBatch(episodes);
  const owners = new Int32Array(batch.targets.size).fill(-1);
  owners.set(episodes.flatMap(({ response }, i) => Array<number>(response.length).fill(i)));
  return { batch, owners: tensor(owners) };
}

/** The policy is its own reference before the first update: chosen and rejected of each pair in turn. */
async function referenceLogProbs(
  pairs: readonly PreferenceEpisodes[],
  rows: number,
  summed: (batch: PairBatch) => Promise<Tensor>,
): Promise<number[]> {
  const episodes = pairs.flatMap(({ chosen, rejected }) => [chosen, rejected]);
  const logProbs: number[] = [];
  for (let from = 0; from < episodes.length; from += rows) {
    const some = episodes.slice(from, from + rows);
    const values = await (await summed(pairBatch(some))).data();
    for (let i = 0; i < some.length; i++) logProbs.push(values[i]!);
  }
  return logProbs;
}
