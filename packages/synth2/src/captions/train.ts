import { createHash } from "node:crypto";
import {
  compile,
  countField as count,
  gradients,
  Llama,
  namedState,
  newLlamaConfig,
  requireFreeOutput,
  rowsOfStep,
  runSteps,
  type StageContext,
  type StageOutput,
  saveModel,
  scalarsOf,
  type Tensor,
  type Tokenizer,
  tensor,
  tokenizerFiles,
  zeros,
} from "@trefoil/core";
import { z } from "zod";
import { SynthError } from "../errors.js";
import { makeOptimizer, type TrainingSettings } from "../training/index.js";
import { Choices } from "../world/random.js";
import { type ClassedCaption, classPrompt } from "./classes.js";
import { captionRows, hashLanguageModel } from "./language-model.js";

/** The sizes of the built-in language model. */
export const languageSizesSchema = z
  .strictObject({
    hiddenSize: count(128, "Width."),
    layers: count(4, "Layers."),
    heads: count(4, "Attention heads."),
    intermediateSize: count(352, "Width inside the feed-forward layers."),
    maxPositions: count(64, "Longest caption with its class.").meta({ unit: "tokens" }),
  })
  .refine(({ hiddenSize, heads }) => hiddenSize % (2 * heads) === 0, {
    message: "hiddenSize must be a multiple of twice the heads",
  });

export type LanguageSizes = z.infer<typeof languageSizesSchema>;

export interface TrainLanguageModelOptions extends StageContext, StageOutput {
  captions: readonly ClassedCaption[];
  /** Tells the captions apart when a run is resumed. */
  dataName: string;
  tokenizer: Tokenizer;
  sizes: LanguageSizes;
  settings: TrainingSettings;
}

/**
 * Trains a small Llama on human captions, half of them behind their class ("red circle: a large red disc"), half plain: one model that
 * writes captions of a class, and that a vision-language model is built on. The folder is a Hugging Face one.
 * @throws SynthError `SYNTH_DATA` without captions, `SYNTH_MODEL` for a tokenizer without begin and end of text
 */
export async function trainLanguageModel(
  options: TrainLanguageModelOptions,
): Promise<{ completed: boolean; hash?: string }> {
  const { captions, dataName, tokenizer, sizes, settings, output, overwrite = false } = options;
  requireFreeOutput(options);
  if (captions.length === 0) throw new SynthError("SYNTH_DATA", "there are no captions to train on");
  const { bosTokenId: start, eosTokenId: end } = tokenizer;
  if (start === undefined || end === undefined) {
    throw new SynthError(
      "SYNTH_MODEL",
      "the tokenizer has no begin or no end of text: captions could not start or end",
    );
  }
  // Rows of unit length. Words that stand in the same places (red, blue) keep the rows they begin with; were these alike, no picture
  // could tell them apart: the last norm bounds logit differences by √width times the distance of two rows.
  const initializerRange = sizes.hiddenSize ** -0.5;
  const whole = { ...sizes, keyValueHeads: sizes.heads };
  const config = newLlamaConfig(whole, tokenizer, { tieWordEmbeddings: true, initializerRange });
  const model = new Llama(config, settings.seed);
  const parameters = model.parameters();
  const optimizer = makeOptimizer(parameters, settings);
  try {
    const step = compile((tokens: Tensor, targets: Tensor, weights: Tensor) => {
      const { loss } = model.loss(tokens, targets, { weights });
      const { gradientNorm: gradNorm, learningRate } = optimizer.apply(gradients(loss, parameters));
      return { loss, gradNorm, learningRate };
    });
    const { longest, cut } = rowLengths(captions, tokenizer, sizes.maxPositions);
    const sequence = Math.min(longest, sizes.maxPositions);
    if (cut > 0) {
      options.progress?.warn(
        `${cut} of ${captions.length} captions are longer than maxPositions, ${sizes.maxPositions}, with a class: where they end is not learned. Raise it to ${longest}`,
      );
    }
    const shape = [settings.batch, sequence];
    // Too much is refused before the run begins.
    step.memory(zeros(shape, "i32"), zeros(shape, "i32"), zeros(shape));
    const completed = await runSteps(options, {
      title: "language-model",
      config: { data: dataName, captions: hashCaptions(captions), tokenizer: tokenizer.hash, sizes, settings },
      settings,
      parameters: namedState({ model, optimizer }),
      step: async (index) => {
        const choices = new Choices(settings.seed, index, 0x636c6173);
        const texts = rowsOfStep(captions.length, settings.batch, index, settings.seed).map((row) =>
          tokenizer.encode(maybeClassed(captions[row]!, choices)),
        );
        const rows = captionRows(texts, { start, end, sequence });
        const [tokens, targets, weights] = [rows.tokens, rows.targets, rows.weights].map((data) =>
          tensor(data, { shape }),
        ) as [Tensor, Tensor, Tensor];
        return await scalarsOf(await step(tokens, targets, weights));
      },
    });
    if (!completed) return { completed };
    const files = tokenizerFiles(tokenizer) as Record<string, object>;
    await saveModel(model, output, { config, files, overwrite });
    return { completed, hash: await hashLanguageModel(model) };
  } finally {
    model.dispose();
    for (const parameter of optimizer.namedState().values()) parameter.dispose();
  }
}

/** SHA-256 of captions and their classes: a run is resumed on the same only. */
function hashCaptions(captions: readonly ClassedCaption[]): string {
  const hash = createHash("sha256");
  for (const { caption, classes } of captions) hash.update(`${JSON.stringify([caption, classes])}\n`);
  return hash.digest("hex");
}

/** Tokens of the longest caption behind any of its classes, end of text included, and how many captions have more than `most`. */
function rowLengths(captions: readonly ClassedCaption[], tokenizer: Tokenizer, most: number) {
  let [longest, cut] = [1, 0];
  for (const { caption, classes } of captions) {
    let own = 1;
    for (const name of ["", ...classes]) {
      const { length } = tokenizer.encode(name === "" ? caption : `${classPrompt(name)} ${caption}`);
      own = Math.max(own, length + 1);
    }
    longest = Math.max(longest, own);
    if (own > most) cut++;
  }
  return { longest, cut };
}

/** Half of the captions get one of their classes in front. */
function maybeClassed({ caption, classes }: ClassedCaption, choices: Choices): string {
  return classes.length > 0 && choices.chance(0.5) ? `${classPrompt(choices.pick(classes))} ${caption}` : caption;
}
