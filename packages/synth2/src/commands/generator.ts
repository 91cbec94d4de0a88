import { defineCommand, requireFreeOutput, trainBpe } from "@trefoil/core";
import { z } from "zod";
import { openDataset } from "../data/index.js";
import { denoiserFor, diffusionSchema, trainDenoiser } from "../diffusion/index.js";
import { captionsOf, encodePairs, generatorFor, generatorSizesSchema, trainGenerator } from "../generator/index.js";
import { VqImageTokenizer } from "../tokenizer/index.js";
import { count, dataField, folder, outputFields, runOf, trainFields } from "./fields.js";

/** At 3e-3 after 20 updates of warm-up, one of two seeds read captions as bags of words to the end (docs/synth2-experiment.md). */
export const generatorRate = { learningRate: 1.3e-3, warmupSteps: 100 } as const;

/** The loss of the masked kind, with what it is by default. */
export const generatorLossSchema = z.strictObject({
  schedule: z
    .enum(["cosine", "linear", "square", "arccos"])
    .default("cosine")
    .describe("Schedule of the share of masked codes."),
  leastHidden: z.number().min(0).lt(1).default(0.5).describe("Least share of masked codes in training."),
  average: z
    .enum(["picture", "batch"])
    .default("batch")
    .describe("Average over pictures, or over all masked codes of the batch."),
  dropCondition: z.number().min(0).lt(1).default(0.1).describe("Share of captions that are dropped, for guidance."),
  labelSmoothing: z.number().min(0).lt(1).default(0).describe("ε of the label smoothing."),
});

export const generatorCommand = defineCommand({
  name: "generator",
  summary: "Train a text-to-image model: captions to the codes of a picture, or to its embeddings.",
  description:
    "A bidirectional transformer predicts masked codes from the others and a caption (MUSE, arXiv 2301.00704), with a text encoder of its own; or, with --kind continuous, clean embeddings from noisy ones (DDIM, arXiv 2010.02502). Some captions are dropped, so that the model can also be asked without one, which guidance needs.",
  examples: [
    "synth2 generator --data small-world:paired:3000 --tokenizer models/tokenizer --output models/generator",
    "synth2 generator --kind continuous --data small-world:paired:3000 --tokenizer models/tokenizer --output models/diffusion",
  ],
  schema: z.strictObject({
    data: dataField,
    heldOut: dataField.describe("Pairs to measure on. Default: none.").optional(),
    evaluateEvery: count(500, "Steps between measurements.").meta({ unit: "steps" }),
    tokenizer: folder("Image tokenizer."),
    kind: z
      .enum(["masked", "continuous"])
      .default("masked")
      .describe("Masked codes, or Gaussian diffusion on embeddings; every command takes either."),
    vocabulary: count(512, "Tokens of the captions' vocabulary, at most.").meta({ unit: "tokens" }),
    ...outputFields,
    model: generatorSizesSchema.prefault({}),
    loss: generatorLossSchema.describe("Loss of the masked kind.").prefault({}),
    diffusion: diffusionSchema.describe("Loss of the continuous kind.").prefault({}),
    train: trainFields({ steps: 3600, ...generatorRate, batch: 32 }).prefault({}),
  }),
  run: async (config, { progress, signal }) => {
    const { kind, model: sizes, loss, diffusion, train: settings, output, resume, overwrite } = config;
    const run = runOf(config);
    // Found out now, not when all pictures are encoded.
    requireFreeOutput({ output, run, overwrite });
    using images = await VqImageTokenizer.open(config.tokenizer);
    await using data = await openDataset(config.data, images.imageSize);
    await using heldOut =
      config.heldOut === undefined ? undefined : await openDataset(config.heldOut, images.imageSize);
    const text = await trainBpe(await captionsOf(data.dataset), { vocabSize: config.vocabulary });
    const encode = (from: typeof data) =>
      encodePairs(from.dataset, images, text, sizes.maxTextTokens, { progress, signal });
    const pairs = await encode(data);
    const evaluation = heldOut && { pairs: await encode(heldOut), every: config.evaluateEvery };
    const architecture = generatorFor(sizes, images, text.vocabSize);
    const common = {
      ...{ pairs, text, settings, output, run, resume, overwrite, progress, signal },
      ...(evaluation && { evaluation }),
    };
    const { completed, evaluation: scores } =
      kind === "masked"
        ? await trainGenerator({ ...common, architecture, loss, tokenizerHash: images.hash })
        : await trainDenoiser({
            ...{ ...common, images, dropCondition: diffusion.dropCondition },
            architecture: denoiserFor(architecture, diffusion),
          });
    if (!completed) return;
    if (scores) {
      const found =
        scores.bitsPerCode === undefined
          ? `error ${scores.loss!.toFixed(4)}`
          : `${scores.bitsPerCode.toFixed(3)} bits per code`;
      progress.log(`${found} on held-out pairs.`);
    }
    progress.log(`The generator is in ${output}.`);
  },
});
