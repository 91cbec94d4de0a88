import { denoiserKind } from "../diffusion/folder.js";
import {
  DiffusionSampler,
  type DiffusionSamplingOptions,
  diffusionSamplingSchema,
  type OpenDenoiser,
  openDenoiser,
} from "../diffusion/index.js";
import { MaskedGenerator, type OpenMaskedGenerator, openGenerator, requireSameTokenizer } from "../generator/index.js";
import { modelKind } from "../models/folder.js";
import { MaskedSampler, type SampleRequest, type SamplingOptions, UNKNOWN_CODE } from "../sampling/index.js";
import type { VqImageTokenizer } from "../tokenizer/index.js";

/** A trained generator of either kind: masked codes, or Gaussian diffusion on embeddings. */
export type PictureGenerator = OpenMaskedGenerator | OpenDenoiser;

/** @throws SynthError `SYNTH_MODEL`, `SYNTH_VOCABULARY_MISMATCH` */
export const openPictureGenerator = async (path: string): Promise<PictureGenerator> =>
  (await modelKind(path)) === denoiserKind ? await openDenoiser(path) : await openGenerator(path);

/** How generators draw: each kind has its own. */
export interface DrawingOptions {
  sampling: SamplingOptions;
  /** Default: that of `diffusionSamplingSchema`. */
  diffusion?: DiffusionSamplingOptions;
}

export interface DrawnPictures {
  /** `[count, L]`; of a continuous generator those nearest to its embeddings. */
  codes: Int32Array;
  /** `[count, L, D]` */
  embeddings: Float32Array;
}

/** Draws pictures for captions, whatever kind of generator it has. */
export interface PictureSampler {
  /** @throws SynthError `SYNTH_OPTIONS`, `SYNTH_DATA`; the signal's reason when aborted */
  draw(request: SampleRequest): Promise<DrawnPictures>;
}

/**
 * A generator with its image tokenizer, ready to draw.
 * @throws SynthError `SYNTH_TOKENIZER_MISMATCH`, `SYNTH_OPTIONS`
 */
export function pictureSampler(
  generator: PictureGenerator,
  images: VqImageTokenizer,
  options: DrawingOptions,
): PictureSampler {
  requireSameTokenizer("the generator", generator.tokenizerHash, images.hash);
  const { model } = generator;
  if (model instanceof MaskedGenerator) {
    const sampler = new MaskedSampler(model, options.sampling);
    return {
      draw: async (request) => {
        const codes = await sampler.sample(request);
        return { codes, embeddings: images.embed(codes) };
      },
    };
  }
  const { snap, ...how } = options.diffusion ?? diffusionSamplingSchema.parse({});
  const sampler = new DiffusionSampler(model, how);
  return {
    draw: async ({ given, onStep, ...request }) => {
      const embeddings = await sampler.sample({
        ...request,
        ...(given && { given: embeddedGiven(given, images) }),
        ...(onStep && {
          onStep: async ({ step, steps, guess }) => {
            const sampled = await images.nearest(guess);
            const settled = step === steps ? sampled : (given ?? new Int32Array(sampled.length).fill(UNKNOWN_CODE));
            await onStep({ step, steps, sampled, tokens: settled });
          },
        }),
      });
      const codes = await images.nearest(embeddings);
      return { codes, embeddings: snap ? images.embed(codes) : embeddings };
    },
  };
}

function embeddedGiven(codes: Int32Array, images: VqImageTokenizer) {
  const known = Uint8Array.from(codes, (code) => (code === UNKNOWN_CODE ? 0 : 1));
  return { known, embeddings: images.embed(codes.map((code) => (code === UNKNOWN_CODE ? 0 : code))) };
}
