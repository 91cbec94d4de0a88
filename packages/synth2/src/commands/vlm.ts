import { defineCommand, requireFreeOutput } from "@trefoil/core";
import { z } from "zod";
import { LanguageModel } from "../captions/index.js";
import { openDataset } from "../data/index.js";
import { type DiffusionSamplingOptions, diffusionSamplingSchema } from "../diffusion/index.js";
import { openPictureGenerator } from "../drawing/index.js";
import { SynthError } from "../errors.js";
import { type SamplingOptions, samplingSchema } from "../sampling/index.js";
import { readCaptionRows } from "../synthesize/index.js";
import { VqImageTokenizer } from "../tokenizer/index.js";
import type { EmbeddedDataset } from "../types.js";
import {
  CodedDataset,
  OnTheFlyDataset,
  requireTextTokens,
  SyntheticDataset,
  trainVlm,
  vlmSizesSchema,
} from "../vlm/index.js";
import { count, dataField, folder, outputFields, runOf, seedField, trainFields } from "./fields.js";

export const vlmCommand = defineCommand({
  name: "vlm",
  summary: "Train a vision-language model: embeddings of pictures to captions.",
  description:
    "A Perceiver resampler and gated cross-attention (Flamingo, arXiv 2204.14198) let a frozen language model read the image tokenizer's embeddings. With --synthetic or --on-the-fly, synthesised pairs join the real ones: of human captions (GenImage) or of written ones (GenPair).",
  examples: [
    "synth2 vlm --data world:paired:2000 --tokenizer models/tokenizer --language-model models/language --output models/vlm",
  ],
  schema: z.strictObject({
    data: dataField,
    synthetic: folder("Pairs that synthesize wrote.").optional(),
    onTheFly: z
      .strictObject({
        captions: z.string().min(1).describe('JSON lines with "caption".').meta({ placeholder: "file.jsonl" }),
        generator: folder("Generator."),
        seed: seedField.describe("Key of the random numbers."),
        sampling: samplingSchema.prefault({}),
        diffusion: diffusionSamplingSchema.prefault({}),
      })
      .describe("Instead of --synthetic: pairs drawn when they are needed, and not kept.")
      .optional(),
    syntheticShare: z
      .number()
      .min(0)
      .max(1)
      .default(0.5)
      .describe("Share of synthetic pairs in the batches; 1: no real pairs."),
    tokenizer: folder("Image tokenizer."),
    languageModel: folder("Language model; it stays as it is."),
    ...outputFields,
    maxTextTokens: count(32, "Tokens of a caption that are learned.").meta({ unit: "tokens" }),
    model: vlmSizesSchema.prefault({}),
    train: trainFields({ steps: 4500, learningRate: 1.3e-3, warmupSteps: 100, batch: 32 }).prefault({}),
  }),
  run: async (config, { progress, signal }) => {
    const { model: sizes, train: settings, output, resume, overwrite, maxTextTokens } = config;
    const run = runOf(config);
    // Found out now, not when all pictures are encoded.
    requireFreeOutput({ output, run, overwrite });
    using images = await VqImageTokenizer.open(config.tokenizer);
    using language = await LanguageModel.open(config.languageModel);
    requireTextTokens(language, maxTextTokens);
    await using data = await openDataset(config.data, images.imageSize);
    await using synthetic = await openSynthetic(config, images);
    const real = await CodedDataset.encode(data.dataset, images, { progress, signal });
    const { completed } = await trainVlm({
      data: synthetic
        ? { real, synthetic: synthetic.dataset, syntheticShare: config.syntheticShare }
        : { real, syntheticShare: 0 },
      dataName: JSON.stringify([data.hash, synthetic?.dataset.hash ?? null]),
      ...{ language, sizes, maxTextTokens, settings, output, run, resume, overwrite, progress, signal },
    });
    if (completed) progress.log(`The vision-language model is in ${output}.`);
  },
});

interface SyntheticFields {
  synthetic?: string | undefined;
  onTheFly?:
    | {
        captions: string;
        generator: string;
        seed: number;
        sampling: SamplingOptions;
        diffusion: DiffusionSamplingOptions;
      }
    | undefined;
}

async function openSynthetic(
  { synthetic, onTheFly }: SyntheticFields,
  images: VqImageTokenizer,
): Promise<(AsyncDisposable & { dataset: EmbeddedDataset & { hash: string } }) | undefined> {
  if (synthetic !== undefined && onTheFly) {
    throw new SynthError("SYNTH_OPTIONS", "give --synthetic or --on-the-fly, one of them");
  }
  if (synthetic !== undefined) {
    const dataset = await SyntheticDataset.open(synthetic);
    return { dataset, [Symbol.asyncDispose]: () => dataset[Symbol.asyncDispose]() };
  }
  if (!onTheFly) return undefined;
  const { captions, sampling, diffusion, seed } = onTheFly;
  const generator = await openPictureGenerator(onTheFly.generator);
  const dispose = async () => generator.model.dispose();
  try {
    const rows = readCaptionRows(captions);
    const dataset = await OnTheFlyDataset.open({ captions: rows, generator, images, sampling, diffusion, seed });
    return { dataset, [Symbol.asyncDispose]: dispose };
  } catch (error) {
    await dispose();
    throw error;
  }
}
