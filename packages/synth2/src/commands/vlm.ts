import { defineCommand } from "@trefoil/core";
import { z } from "zod";
import { LanguageModel } from "../captions/index.js";
import { openDataset } from "../data/index.js";
import { VqImageTokenizer } from "../tokenizer/index.js";
import { CodedDataset, SyntheticDataset, trainVlm, vlmSizesSchema } from "../vlm/index.js";
import { count, dataField, folder, outputFields, runOf, trainFields } from "./fields.js";

export const vlmCommand = defineCommand({
  name: "vlm",
  summary: "Train a vision-language model: embeddings of pictures to captions.",
  description:
    "A Perceiver resampler and gated cross-attention (Flamingo, arXiv 2204.14198) let a frozen language model read the image tokenizer's embeddings. With --synthetic, pairs from synthesize join the real ones: of human captions (GenImage) or of written ones (GenPair).",
  examples: [
    "synth2 vlm --data world:paired:2000 --tokenizer models/tokenizer --language-model models/language --output models/vlm",
  ],
  schema: z.strictObject({
    data: dataField,
    synthetic: folder("Pairs that synthesize wrote.").optional(),
    syntheticShare: z.number().min(0).max(1).default(0.5).describe("Share of them in the batches; 1: no real pairs."),
    tokenizer: folder("Image tokenizer."),
    languageModel: folder("Language model; it stays as it is."),
    ...outputFields,
    maxTextTokens: count(32, "Tokens of a caption that are learned.").meta({ unit: "tokens" }),
    model: vlmSizesSchema.prefault({}),
    train: trainFields({ steps: 1500, learningRate: 1e-3, batch: 32 }).prefault({}),
  }),
  run: async (config, { progress, signal }) => {
    const { model: sizes, train: settings, output, resume, overwrite, maxTextTokens } = config;
    using images = await VqImageTokenizer.open(config.tokenizer);
    using language = await LanguageModel.open(config.languageModel);
    await using data = await openDataset(config.data, images.imageSize);
    await using synthetic = config.synthetic === undefined ? undefined : await SyntheticDataset.open(config.synthetic);
    const real = await CodedDataset.encode(data.dataset, images, { progress, signal });
    const { completed } = await trainVlm({
      data: synthetic ? { real, synthetic, syntheticShare: config.syntheticShare } : { real, syntheticShare: 0 },
      dataName: JSON.stringify([data.hash, config.synthetic ?? null]),
      ...{ language, sizes, maxTextTokens, settings, output, resume, overwrite, progress, signal },
      run: runOf(config),
    });
    if (completed) progress.log(`The vision-language model is in ${output}.`);
  },
});
