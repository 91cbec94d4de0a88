import type { StageContext } from "@trefoil/core";
import { type DrawingOptions, type PictureGenerator, pictureSampler } from "../drawing/index.js";
import { SynthError } from "../errors.js";
import { encodeCaption } from "../generator/index.js";
import { imageBatch, picturesOf, toBytes } from "../images/pixels.js";
import { pictureSeed } from "../sampling/index.js";
import type { VqImageTokenizer } from "../tokenizer/index.js";
import type { PairedDataset, SceneAttributes } from "../types.js";
import { type AttributeAccuracy, attributeAccuracy, judgePicture } from "../world/index.js";

export interface FaithfulnessOptions extends StageContext, DrawingOptions {
  /** Pictures of the built-in world; the first caption of each is drawn. */
  data: PairedDataset;
  tokenizer: VqImageTokenizer;
  /** Without it, reconstructions alone are measured. */
  generator?: PictureGenerator;
  seed: number;
}

/** What the judge sees in pictures, against the same captions. */
export interface Faithfulness {
  pictures: number;
  /** In the pictures themselves: what the judge misreads. */
  original: AttributeAccuracy;
  /** After the tokenizer's round trip: the most that a generator can reach. */
  reconstructed: AttributeAccuracy;
  generated?: AttributeAccuracy;
  /** Exact generated pictures to exact reconstructions. */
  ratio?: number;
}

/** Pictures at a time. */
const rows = 64;

/**
 * Draws a picture for a caption of every sample and judges it against that caption, beside the true picture and its reconstruction.
 * @throws SynthError `SYNTH_DATA` for pictures that are not of the built-in world, `SYNTH_TOKENIZER_MISMATCH`
 */
export async function measureFaithfulness(options: FaithfulnessOptions): Promise<Faithfulness> {
  const { data, tokenizer, generator, seed, progress, signal } = options;
  const sampler = generator && pictureSampler(generator, tokenizer, options);
  type Judged = { caption: string; scene: SceneAttributes };
  const found: Record<"original" | "reconstructed" | "generated", Judged[]> = {
    original: [],
    reconstructed: [],
    generated: [],
  };
  const stage = progress?.stage("judge", { total: data.length, unit: "pictures" });
  for (let at = 0; at < data.length; at += rows) {
    signal?.throwIfAborted();
    const indices = Array.from({ length: Math.min(rows, data.length - at) }, (_, i) => at + i);
    const samples = await Promise.all(indices.map((index) => data.get(index)));
    const captions = samples.map(({ captions: [caption = ""], attributes }, i) => {
      if (attributes) return caption;
      throw new SynthError("SYNTH_DATA", `picture ${at + i} is not of the built-in world: nothing can judge it`);
    });
    const judge = (kind: keyof typeof found, pictures: Uint8Array, size: number): void => {
      picturesOf(pictures, size).forEach((picture, i) => {
        found[kind].push({ caption: captions[i]!, scene: judgePicture(picture) });
      });
    };
    const originals = await imageBatch(data, indices);
    judge("original", toBytes(originals), data.size);
    const drawn = async (embeddings: Float32Array) =>
      toBytes(await tokenizer.decodeEmbeddings(embeddings, indices.length));
    judge(
      "reconstructed",
      await drawn(tokenizer.embed(await tokenizer.encode(originals, indices.length))),
      tokenizer.imageSize,
    );
    if (sampler && generator) {
      const { text, model } = generator;
      const { embeddings } = await sampler.draw({
        captions: captions.map((caption) => encodeCaption(caption, text, model.architecture.maxTextTokens)),
        seeds: captions.map((caption, i) => pictureSeed(seed, `${at + i}\0${caption}`)),
        ...(signal && { signal }),
      });
      judge("generated", await drawn(embeddings), tokenizer.imageSize);
    }
    stage?.update(at + indices.length);
  }
  stage?.succeed();
  const [original, reconstructed] = [attributeAccuracy(found.original), attributeAccuracy(found.reconstructed)];
  if (!sampler) return { pictures: data.length, original, reconstructed };
  const generated = attributeAccuracy(found.generated);
  const ratio = generated.exact / reconstructed.exact;
  return { pictures: data.length, original, reconstructed, generated, ratio };
}
