import { defineCommand, writeFileAtomic } from "@trefoil/core";
import { z } from "zod";
import { encodePng } from "../data/index.js";
import { encodeCaption, openGenerator, requireSameTokenizer } from "../generator/index.js";
import { toBytes } from "../images/pixels.js";
import { MaskedSampler, pictureSeed, samplingSchema } from "../sampling/index.js";
import { VqImageTokenizer } from "../tokenizer/index.js";
import { folder, seedField } from "./fields.js";

export const generateCommand = defineCommand({
  name: "generate",
  summary: "Draw a picture from a caption.",
  description:
    "Decodes all codes of the picture in parallel, a few more settled at every step (MaskGIT, arXiv 2202.04200). The same caption and seed give the same picture.",
  examples: [
    'synth2 generate --caption "a red circle" --generator models/generator --tokenizer models/tokenizer --output red.png',
  ],
  schema: z.strictObject({
    caption: z.string().min(1).describe("What the picture should show."),
    negative: z.string().optional().describe("What it should not show; replaces no caption in the guidance."),
    generator: folder("Generator."),
    tokenizer: folder("Image tokenizer that it was trained with."),
    output: z.string().min(1).describe("PNG to write.").meta({ placeholder: "file.png" }),
    seed: seedField.describe("Key of the random numbers."),
    sampling: samplingSchema.prefault({}),
  }),
  run: async (config, { progress, signal }) => {
    const { caption, negative, output, seed, sampling } = config;
    using images = await VqImageTokenizer.open(config.tokenizer);
    const { model, text, tokenizerHash } = await openGenerator(config.generator);
    try {
      requireSameTokenizer(config.generator, tokenizerHash, images.hash);
      const encode = (words: string) => encodeCaption(words, text, model.architecture.maxTextTokens);
      const sampler = new MaskedSampler(model, sampling);
      const codes = await sampler.sample({
        captions: [encode(caption)],
        seeds: [pictureSeed(seed, caption)],
        ...(negative !== undefined && { negative: encode(negative) }),
        signal,
      });
      const pixels = toBytes(await images.decode(codes, 1));
      await writeFileAtomic(output, await encodePng(pixels, images.imageSize, images.imageSize));
      progress.log(`The picture is in ${output}.`);
    } finally {
      model.dispose();
    }
  },
});
