import {
  compile,
  type Dtype,
  defined,
  Llama,
  type LlamaSizes,
  namedState,
  newLlamaConfig,
  requireFreeOutput,
  runSteps,
  type StageContext,
  type StageOutput,
  saveModel,
  scalarsOf,
  type Tensor,
  type Tokenizer,
  tensor,
  tokenizerFiles,
  valueAndGrad,
  zeros,
} from "@trefoil/core";
import { type DemonstrationText, EpisodeEncoder, joined, longestOf } from "../data/index.js";
import { RlhfError } from "../errors.js";
import { type Episode, hashModelFolder, OpenPolicy } from "../models/index.js";
import { batchOfStep } from "./batches.js";
import { hashRows } from "./hash-rows.js";
import { makeOptimizer, type OptimizerSettings } from "./optimizer.js";

/** A policy that is made on the spot. */
export interface NewPolicy extends LlamaSizes {
  tokenizer: Tokenizer;
}

export interface TrainingSettings extends OptimizerSettings {
  /** Optimiser updates. */
  steps: number;
  /** Rows (or pairs) of a batch. */
  batch: number;
  /** Tokens of prompt and response together, at most; longer responses are cut. */
  maxLength: number;
  /** Initial weights and order of the data. */
  seed: number;
  checkpointEvery: number;
  keepCheckpoints: number;
}

export interface SftOptions extends StageContext, StageOutput {
  /** Folder to start from, or the sizes of a new policy. */
  from: string | NewPolicy;
  demonstrations: readonly DemonstrationText[];
  /** Also train on the tokens of prompts. */
  trainOnPrompts: boolean;
  settings: TrainingSettings;
}

/**
 * Supervised fine-tuning: the mean over all response tokens of a batch of -log π, the end of the text included. Returns whether it came
 * to the end.
 */
export async function sft(options: SftOptions): Promise<boolean> {
  const { from, demonstrations, settings, output, progress, overwrite } = options;
  requireFreeOutput(options);
  const source = await openSource(from, settings.seed);
  const { model, config, tokenizer, eosTokenIds } = source;
  try {
    const encoder = new EpisodeEncoder(tokenizer, eosTokenIds, model.config.maxPositions, settings.maxLength);
    const { maxLength } = encoder;
    const episodes = encoder.demonstrations(demonstrations);
    if (encoder.truncated > 0)
      progress?.warn(
        `${encoder.truncated} of ${episodes.length} completions were cut to ${maxLength} tokens; their ends are lost`,
      );
    const longest = longestOf(episodes, ({ prompt, response }) => prompt.length + response.length);
    const sequence = Math.min(8 * Math.ceil(longest / 8), maxLength);
    const parameters = model.parameters();
    const optimizer = makeOptimizer(parameters, settings, settings.steps);
    const step = compile((tokens: Tensor, targets: Tensor, weights: Tensor) => {
      const { value, grads } = valueAndGrad(() => model.loss(tokens, targets, { weights }).loss, parameters);
      const { gradientNorm, learningRate } = optimizer.apply(grads);
      return { loss: value, gradNorm: gradientNorm, learningRate };
    });
    const empty = (dtype: Dtype) => zeros([settings.batch, sequence], dtype);
    // Too much is refused before the run begins.
    step.memory(empty("i32"), empty("i32"), empty("f32"));
    const completed = await runSteps(options, {
      title: "sft",
      config: {
        from: typeof from === "string" ? await hashModelFolder(from) : { ...from, tokenizer: tokenizer.hash },
        demonstrations: hashRows(demonstrations),
        trainOnPrompts: options.trainOnPrompts,
        settings,
      },
      settings,
      parameters: namedState({ model, optimizer }),
      step: async (index) => {
        const batch = targetsOf(batchOfStep(episodes, settings, index), sequence, options.trainOnPrompts);
        return {
          ...(await scalarsOf(await step(batch.tokens, batch.targets, batch.weights))),
          tokens: settings.batch * sequence,
        };
      },
    });
    if (completed) {
      const files =
        typeof from === "string"
          ? { tokenizerFrom: from }
          : { files: tokenizerFiles(tokenizer) as Record<string, object> };
      await saveModel(model, output, { config, ...files, ...defined({ overwrite }) });
    }
    return completed;
  } finally {
    model.dispose();
  }
}

async function openSource(from: string | NewPolicy, seed: number) {
  if (typeof from === "string") return await OpenPolicy.open(from);
  const { tokenizer, ...sizes } = from;
  const eos = tokenizer.eosTokenId;
  if (eos === undefined)
    throw new RlhfError("RLHF_TOKENIZER", "the tokenizer has no end-of-text token: responses could never end");
  if (tokenizer.padTokenId === eos) {
    throw new RlhfError(
      "RLHF_TOKENIZER",
      "pad_token and eos_token are the same: the model would never learn to stop. Give padding a token of its own, or none",
    );
  }
  const config = newLlamaConfig(sizes, tokenizer, { tieWordEmbeddings: false, initializerRange: 0.02 });
  return { model: new Llama(config, seed), config, tokenizer, eosTokenIds: [eos] };
}

/** Next-token targets and weights that make the loss a mean over the batch's response tokens: all [rows, sequence]. */
function targetsOf(episodes: readonly Episode[], sequence: number, trainOnPrompts: boolean) {
  const shape = [episodes.length, sequence];
  const tokens = new Int32Array(episodes.length * sequence);
  const targets = new Int32Array(tokens.length).fill(-1);
  episodes.forEach(({ prompt, response }, row) => {
    const all = joined(prompt, response);
    tokens.set(all, row * sequence);
    for (let t = trainOnPrompts ? 1 : prompt.length; t < all.length; t++) targets[row * sequence + t - 1] = all[t]!;
  });
  const count = targets.reduce((total, target) => total + Number(target >= 0), 0);
  const weights = Float32Array.from(targets, (target) => (target >= 0 ? 1 / count : 0));
  return {
    tokens: tensor(tokens, { shape }),
    targets: tensor(targets, { shape }),
    weights: tensor(weights, { shape }),
  };
}
