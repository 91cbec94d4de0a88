import { encodePng } from "../data/index.js";
import { type CaptionTokens, encodeCaption, type OpenMaskedGenerator } from "../generator/index.js";
import { imageBatch, picturesOf, toBytes } from "../images/pixels.js";
import { MaskedSampler, pictureSeed, type SamplingOptions } from "../sampling/index.js";
import type { VqImageTokenizer } from "../tokenizer/index.js";
import type { PairedDataset, RgbImage } from "../types.js";
import { type AttributeAccuracy, attributeAccuracy, judgePicture } from "../world/index.js";

export const pngOf = ({ pixels, width, height }: RgbImage): Promise<Buffer> => encodePng(pixels, width, height);

/** One picture with others beside and under it, `columns` wide. */
export async function contactSheet(pictures: readonly RgbImage[], columns: number): Promise<Buffer> {
  const size = pictures[0]!.width;
  const rows = Math.ceil(pictures.length / columns);
  const sheet = new Uint8Array(columns * size * rows * size * 3);
  pictures.forEach(({ pixels }, i) => {
    const [row, column] = [Math.floor(i / columns) * size, (i % columns) * size];
    for (let y = 0; y < size; y++) {
      sheet.set(pixels.subarray(y * size * 3, (y + 1) * size * 3), ((row + y) * columns * size + column) * 3);
    }
  });
  return await encodePng(sheet, columns * size, rows * size);
}

export interface Reconstructions {
  originals: RgbImage[];
  made: RgbImage[];
  /** What the judge sees in the reconstructions against what the originals show. */
  accuracy: AttributeAccuracy;
  /** How often each code was used. */
  usage: Float64Array;
}

/** Encodes and decodes all pictures of a dataset of the world. */
export async function reconstruct(data: PairedDataset, tokenizer: VqImageTokenizer): Promise<Reconstructions> {
  const indices = Array.from({ length: data.length }, (_, i) => i);
  const images = await imageBatch(data, indices);
  const codes = await tokenizer.encode(images, data.length);
  const made = picturesOf(toBytes(await tokenizer.decode(codes, data.length)), data.size);
  const captions = (await Promise.all(indices.map((i) => data.get(i)))).map((sample) => sample.captions[0]!);
  const usage = new Float64Array(tokenizer.codebookSize);
  for (const code of codes) usage[code]!++;
  const accuracy = attributeAccuracy(captions.map((caption, i) => ({ caption, scene: judgePicture(made[i]!) })));
  return { originals: picturesOf(toBytes(images), data.size), made, accuracy, usage };
}

export interface Drawn {
  captions: readonly string[];
  pictures: RgbImage[];
  /** Of the first caption: the guess at every step of decoding. */
  steps: RgbImage[];
  /** What the judge sees in the pictures against their captions. */
  accuracy: AttributeAccuracy;
}

/** Draws a picture for each caption, and keeps how the first came about. */
export async function drawCaptions(
  captions: readonly string[],
  generator: OpenMaskedGenerator,
  tokenizer: VqImageTokenizer,
  options: { sampling: SamplingOptions; seed: number; signal?: AbortSignal },
): Promise<Drawn> {
  const { model, text } = generator;
  const encode = (caption: string): CaptionTokens => encodeCaption(caption, text, model.architecture.maxTextTokens);
  const sampler = new MaskedSampler(model, options.sampling);
  const signal = options.signal ? { signal: options.signal } : {};
  const seeds = captions.map((caption, i) => pictureSeed(options.seed, `${i}\0${caption}`));
  const codes = await sampler.sample({ captions: captions.map(encode), seeds, ...signal });
  const pictures = picturesOf(toBytes(await tokenizer.decode(codes, captions.length)), tokenizer.imageSize);
  const steps: RgbImage[] = [];
  await sampler.sample({
    captions: [encode(captions[0]!)],
    seeds: [seeds[0]!],
    ...signal,
    onStep: async ({ sampled }) => {
      steps.push(...picturesOf(toBytes(await tokenizer.decode(sampled, 1)), tokenizer.imageSize));
    },
  });
  const accuracy = attributeAccuracy(captions.map((caption, i) => ({ caption, scene: judgePicture(pictures[i]!) })));
  return { captions, pictures, steps, accuracy };
}
