import { createHash } from "node:crypto";
import { type DrawingOptions, type PictureGenerator, type PictureSampler, pictureSampler } from "../drawing/index.js";
import { SynthError } from "../errors.js";
import { encodeCaption } from "../generator/index.js";
import { pictureSeed } from "../sampling/index.js";
import type { CaptionRow } from "../synthesize/index.js";
import type { VqImageTokenizer } from "../tokenizer/index.js";
import type { EmbeddedDataset, EmbeddedSample } from "../types.js";

interface OnTheFlyOptions extends DrawingOptions {
  captions: AsyncIterable<CaptionRow> | Iterable<CaptionRow>;
  generator: PictureGenerator;
  images: VqImageTokenizer;
  seed: number;
}

/** Embeddings drawn when they are asked for and kept nowhere: the same that `synthesize` writes of the same captions and seed. */
export class OnTheFlyDataset implements EmbeddedDataset {
  readonly positions: number;
  readonly dimension: number;
  readonly tokenizerHash: string;
  readonly #sampler: PictureSampler;

  private constructor(
    readonly options: Omit<OnTheFlyOptions, "captions">,
    readonly rows: readonly (CaptionRow & { tokens: Int32Array })[],
    /** Captions left out, longer than the generator reads. */
    readonly skipped: number,
  ) {
    const { generator, images } = options;
    this.positions = images.positions;
    this.dimension = images.dimension;
    this.tokenizerHash = images.hash;
    this.#sampler = pictureSampler(generator, images, options);
  }

  /** @throws SynthError `SYNTH_TOKENIZER_MISMATCH`, `SYNTH_DATA` without a caption that fits */
  static async open({ captions, ...options }: OnTheFlyOptions): Promise<OnTheFlyDataset> {
    const { generator } = options;
    const rows: (CaptionRow & { tokens: Int32Array })[] = [];
    let skipped = 0;
    for await (const { id, caption } of captions) {
      try {
        const tokens = encodeCaption(caption, generator.text, generator.model.architecture.maxTextTokens);
        rows.push({ id, caption, tokens });
      } catch (error) {
        if (!(error instanceof SynthError)) throw error;
        skipped++;
      }
    }
    if (rows.length === 0) throw new SynthError("SYNTH_DATA", "there is no caption that the generator reads");
    return new OnTheFlyDataset(options, rows, skipped);
  }

  /** Of what is drawn how, and for which captions: part of what a resumed run must find again. */
  get hash(): string {
    const { generator, sampling, diffusion = null, seed } = this.options;
    const hash = createHash("sha256").update(JSON.stringify([generator.hash, sampling, diffusion, seed]));
    for (const { id, caption } of this.rows) hash.update(JSON.stringify([id, caption]));
    return hash.digest("hex");
  }

  get length(): number {
    return this.rows.length;
  }

  async get(index: number): Promise<EmbeddedSample> {
    return (await this.getMany([index]))[0]!;
  }

  /** @throws RangeError when an index is outside */
  async getMany(indices: readonly number[]): Promise<EmbeddedSample[]> {
    const { seed } = this.options;
    const rows = indices.map((index) => {
      const row = this.rows[index];
      if (!row) throw new RangeError(`sample ${index} of ${this.length}`);
      return row;
    });
    const { embeddings } = await this.#sampler.draw({
      captions: rows.map(({ tokens }) => tokens),
      seeds: rows.map(({ id, caption }) => pictureSeed(seed, `${id}\0${caption}`)),
    });
    const each = this.positions * this.dimension;
    return rows.map(({ id, caption }, row) => ({
      id,
      captions: [caption],
      embedding: embeddings.slice(row * each, (row + 1) * each),
    }));
  }
}
