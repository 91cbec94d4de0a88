import { defineCommand, writeFileAtomic } from "@trefoil/core";
import { z } from "zod";
import { encodePng } from "../data/index.js";
import { diffusionSamplingSchema } from "../diffusion/index.js";
import { openPictureGenerator, pictureSampler } from "../drawing/index.js";
import { SynthError } from "../errors.js";
import { encodeCaption } from "../generator/index.js";
import { MaskedGenerator } from "../generator/masked-model.js";
import { picturesOf, toBytes, toUnit } from "../images/pixels.js";
import { contactSheet } from "../quickstart/pictures.js";
import { pictureSeed, samplingSchema, UNKNOWN_CODE } from "../sampling/index.js";
import { VqImageTokenizer } from "../tokenizer/index.js";
import type { RgbImage } from "../types.js";
import { folder, seedField } from "./fields.js";
import { readPicture } from "./read-picture.js";

const file = (meaning: string) => z.string().min(1).describe(meaning).meta({ placeholder: "file.png" });

export const generateCommand = defineCommand({
  name: "generate",
  summary: "Draw a picture from a caption.",
  description:
    "Decodes all codes of the picture in parallel, fixing a few more at every step (MaskGIT, arXiv 2202.04200), or denoises its embeddings (DDIM, arXiv 2010.02502), depending on how the generator was trained. The same caption and seed give the same picture. With --image and --mask, only what is white in the mask is drawn.",
  examples: [
    'synth2 generate "a red circle" -o red.png --generator models/generator --tokenizer models/tokenizer',
    'synth2 generate "a red circle" --image scene.png --mask hole.png -o filled.png --generator models/generator --tokenizer models/tokenizer',
  ],
  schema: z.strictObject({
    caption: z
      .string()
      .min(1)
      .describe("What the picture should show.")
      .meta({ placeholder: "text", positional: true }),
    negative: z
      .string()
      .optional()
      .describe("What it should not show: the negative caption of the guidance, instead of an empty one."),
    image: file("Picture to paint into. Default: none, all is drawn.").optional(),
    mask: file("With --image: white where it is painted anew, black where it is kept.").optional(),
    generator: folder("Generator."),
    tokenizer: folder("Image tokenizer that it was trained with."),
    output: file("PNG to write.").meta({ placeholder: "file.png", short: "o" }),
    film: file("PNG to write besides: the best guess after every step, beside one another.").optional(),
    seed: seedField.describe("Key of the random numbers."),
    sampling: samplingSchema.prefault({}),
    diffusion: diffusionSamplingSchema.prefault({}),
  }),
  run: async (config, { progress, signal }) => {
    const { caption, negative, output, film, seed } = config;
    using images = await VqImageTokenizer.open(config.tokenizer);
    const { imageSize } = images;
    const generator = await openPictureGenerator(config.generator);
    const { model, text } = generator;
    try {
      const { guidance } = model instanceof MaskedGenerator ? config.sampling : config.diffusion;
      if (negative !== undefined && guidance === 0) {
        throw new SynthError("SYNTH_OPTIONS", "--negative is what guidance leads away from: give guidance above 0");
      }
      const sampler = pictureSampler(generator, images, config);
      const encode = (words: string) => encodeCaption(words, text, model.architecture.maxTextTokens);
      const scene = await openScene(config, images);
      const steps: RgbImage[] = [];
      const { embeddings } = await sampler.draw({
        captions: [encode(caption)],
        seeds: [pictureSeed(seed, caption)],
        ...(negative !== undefined && { negative: encode(negative) }),
        ...(scene && { given: scene.codes }),
        ...(film !== undefined && {
          onStep: async ({ sampled }) =>
            void steps.push(...picturesOf(toBytes(await images.decode(sampled, 1)), imageSize)),
        }),
        signal,
      });
      const pixels = toBytes(await images.decodeEmbeddings(embeddings, 1));
      scene?.keep(pixels);
      await writeFileAtomic(output, await encodePng(pixels, imageSize, imageSize));
      if (film !== undefined) await writeFileAtomic(film, await contactSheet(steps, Math.min(8, steps.length)));
      progress.log(`The picture is in ${output}.`);
    } finally {
      model.dispose();
    }
  },
});

/** A picture to paint into. */
interface Scene {
  /** Unknown where the mask is white anywhere in their cell. */
  codes: Int32Array;
  /** Puts its own pixels back where the mask is not white. */
  keep(pixels: Uint8Array): void;
}

/** @throws SynthError `SYNTH_OPTIONS`, `SYNTH_IMAGE` */
async function openScene(
  { image, mask }: { image?: string | undefined; mask?: string | undefined },
  images: VqImageTokenizer,
): Promise<Scene | undefined> {
  if (image === undefined && mask === undefined) return undefined;
  if (image === undefined || mask === undefined) {
    throw new SynthError("SYNTH_OPTIONS", "give --image and --mask together: what to paint into, and where");
  }
  const { imageSize, gridSize } = images;
  const [own, white] = [await readPicture(image, imageSize), await readPicture(mask, imageSize)];
  const codes = await images.encode(toUnit(own), 1);
  const cell = imageSize / gridSize;
  const painted = (pixel: number) => white[3 * pixel]! >= 128;
  for (let pixel = 0; pixel < imageSize ** 2; pixel++) {
    const [row, column] = [Math.floor(pixel / imageSize / cell), Math.floor((pixel % imageSize) / cell)];
    if (painted(pixel)) codes[row * gridSize + column] = UNKNOWN_CODE;
  }
  if (!codes.includes(UNKNOWN_CODE)) {
    throw new SynthError("SYNTH_OPTIONS", `${mask} has nothing white: paint white what should be drawn anew`);
  }
  const keep = (pixels: Uint8Array) =>
    pixels.forEach((_, i) => {
      if (!painted(Math.floor(i / 3))) pixels[i] = own[i]!;
    });
  return { codes, keep };
}
