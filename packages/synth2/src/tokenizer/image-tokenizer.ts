import {
  add,
  compile,
  concat,
  InitialValues,
  Module,
  multiply,
  reshape,
  slice,
  type Tensor,
  tensor,
} from "@trefoil/core";
import { SynthError } from "../errors.js";
import { loadModelWeights, readModelConfig, saveModelFolder } from "../models/folder.js";
import type { ImageTokenizer } from "../types.js";
import { architectureSchema, booksOf, type TokenizerArchitecture } from "./architecture.js";
import { Codebook, type QuantisedLatents, unitRows } from "./codebook.js";
import { Autoencoder } from "./network.js";

const kind = "trefoil-image-tokenizer";
/** Images of one run of the network; a last, shorter batch is filled up. */
const batchRows = 32;

/** What was quantised in every codebook, and all of it together. */
export interface QuantisedImages {
  /** i32 [R]: the entry of the first codebook times the size of the second, plus the entry of the second, if there is one. */
  index: Tensor;
  /** [R, D]: entries beside one another; the gradient passes straight through to the latents. */
  quantised: Tensor;
  parts: QuantisedLatents[];
}

/** Encoder, codebooks and decoder (VQ-GAN, arXiv 2012.09841). */
export class TokenizerModel extends Module {
  readonly autoencoder: Autoencoder;
  readonly codebooks: Codebook[];

  constructor(
    readonly architecture: TokenizerArchitecture,
    seed = 0,
  ) {
    super();
    const initial = new InitialValues(seed);
    const { codeWidth, normaliseCodes } = architecture;
    this.autoencoder = new Autoencoder(architecture, initial);
    this.codebooks = booksOf(architecture).map((size) => new Codebook(size, codeWidth, normaliseCodes, initial));
  }

  /** Images [N, S, S, 3] to the latents [N g g, D] that are compared to codes, those of each codebook beside one another. */
  latents(images: Tensor): Tensor {
    const parts = this.autoencoder.encode(images);
    return beside(this.architecture.normaliseCodes ? parts.map(unitRows) : parts);
  }

  /** Nearest codes of images [N, S, S, 3]. */
  quantise(images: Tensor): QuantisedImages {
    const latents = this.autoencoder.encode(images);
    const parts = this.codebooks.map((book, i) => book.quantise(latents[i]!));
    return {
      index: this.#joined(parts.map(({ index }) => index)),
      quantised: beside(parts.map(({ quantised }) => quantised)),
      parts,
    };
  }

  /** Nearest codes alone, i32 [N g g]. */
  codes(images: Tensor): Tensor {
    return this.#nearest(this.autoencoder.encode(images));
  }

  /** Nearest codes of embeddings [R, D], i32 [R]. */
  nearest(embeddings: Tensor): Tensor {
    const { codeWidth } = this.architecture;
    return this.#nearest(this.codebooks.map((_, i) => slice(embeddings, 1, i * codeWidth, (i + 1) * codeWidth)));
  }

  #nearest(latents: readonly Tensor[]): Tensor {
    return this.#joined(this.codebooks.map((book, i) => book.nearest(latents[i]!)));
  }

  #joined(entries: readonly Tensor[]): Tensor {
    return entries.reduce((code, entry, i) => add(multiply(code, this.codebooks[i]!.weight.shape[0]!), entry));
  }

  /** Codes [N g g, D] to images [N, S, S, 3]. */
  images(codes: Tensor): Tensor {
    const { gridSize } = this.autoencoder;
    return this.autoencoder.decoder.forward(reshape(codes, [-1, gridSize, gridSize, codes.shape.at(-1)!]));
  }
}

const beside = (parts: readonly Tensor[]): Tensor => (parts.length === 1 ? parts[0]! : concat(parts, 1));

/** Writes a tokenizer's folder. @returns its hash */
export const saveImageTokenizer = (model: TokenizerModel, path: string, overwrite = false): Promise<string> =>
  saveModelFolder(model, path, { kind, architecture: model.architecture, overwrite });

/** A trained, frozen tokenizer. */
export class VqImageTokenizer implements ImageTokenizer {
  readonly imageSize: number;
  readonly gridSize: number;
  readonly codebookSize: number;
  readonly dimension: number;
  /** Sizes of the codebooks: a code is one entry of each, the last counting fastest. */
  readonly books: readonly number[];
  readonly #tables: readonly Float32Array[];
  readonly #encode: (images: Tensor) => Promise<Tensor>;
  readonly #latents: (images: Tensor) => Promise<Tensor>;
  readonly #nearest: (rows: Tensor) => Promise<Tensor>;
  readonly #decodeLatents: (latents: Tensor) => Promise<Tensor>;

  private constructor(
    readonly model: TokenizerModel,
    readonly hash: string,
    tables: readonly Float32Array[],
  ) {
    const { imageSize, codeWidth } = model.architecture;
    this.imageSize = imageSize;
    this.gridSize = model.autoencoder.gridSize;
    this.books = booksOf(model.architecture);
    this.codebookSize = this.books.reduce((product, size) => product * size);
    this.dimension = codeWidth * this.books.length;
    this.#tables = tables;
    this.#latents = compile((images: Tensor) => model.latents(images));
    this.#encode = compile((images: Tensor) => model.codes(images));
    this.#nearest = compile((rows: Tensor) => model.nearest(rows));
    this.#decodeLatents = compile((rows: Tensor) => model.images(rows));
  }

  /** @throws SynthError `SYNTH_MODEL` */
  static async open(path: string): Promise<VqImageTokenizer> {
    const { architecture, sha256, config } = await readModelConfig(path, kind, architectureSchema);
    const model = new TokenizerModel(architecture);
    await loadModelWeights(model, path, config);
    return VqImageTokenizer.of(model, sha256);
  }

  static async of(model: TokenizerModel, hash: string): Promise<VqImageTokenizer> {
    const tables = await Promise.all(model.codebooks.map((book) => book.table().data()));
    return new VqImageTokenizer(model, hash, tables as Float32Array[]);
  }

  /** L, codes of an image. */
  get positions(): number {
    return this.gridSize ** 2;
  }

  async encode(images: Float32Array, count: number): Promise<Int32Array> {
    const out = new Int32Array(count * this.positions);
    await this.#batches(
      images,
      count,
      this.imageSize ** 2 * 3,
      [this.imageSize, this.imageSize, 3],
      async (batch, at) => {
        const index = await this.#encode(batch);
        out.set(
          ((await index.data()) as Int32Array).subarray(0, out.length - at * this.positions),
          at * this.positions,
        );
      },
    );
    return out;
  }

  /** What the encoder says before it is rounded to codes, `[N, L, D]`. */
  async encodeLatents(images: Float32Array, count: number): Promise<Float32Array> {
    const size = this.positions * this.dimension;
    const out = new Float32Array(count * size);
    await this.#batches(
      images,
      count,
      this.imageSize ** 2 * 3,
      [this.imageSize, this.imageSize, 3],
      async (batch, at) => {
        using latents = await this.#latents(batch);
        out.set(((await latents.data()) as Float32Array).subarray(0, out.length - at * size), at * size);
      },
    );
    return out;
  }

  embed(codes: Int32Array): Float32Array {
    const { dimension } = this;
    const out = new Float32Array(codes.length * dimension);
    for (let i = 0; i < codes.length; i++) {
      const code = codes[i]!;
      if (code < 0 || code >= this.codebookSize) {
        throw new SynthError("SYNTH_DATA", `code ${code} is outside of the codebook of ${this.codebookSize}`);
      }
      let rest = code;
      for (let book = this.books.length - 1; book >= 0; book--) {
        const [size, width] = [this.books[book]!, dimension / this.books.length];
        const entry = rest % size;
        rest = (rest - entry) / size;
        out.set(this.#tables[book]!.subarray(entry * width, (entry + 1) * width), i * dimension + book * width);
      }
    }
    return out;
  }

  /** Codes that lie nearest to embeddings. @param embeddings `[N, L, D]` @returns `[N, L]` */
  async nearest(embeddings: Float32Array): Promise<Int32Array> {
    const size = this.positions * this.dimension;
    const count = embeddings.length / size;
    const codes = new Int32Array(count * this.positions);
    await this.#batches(embeddings, count, size, [this.positions, this.dimension], async (batch, at) => {
      using index = await this.#nearest(reshape(batch, [-1, this.dimension]));
      const start = at * this.positions;
      codes.set(((await index.data()) as Int32Array).subarray(0, codes.length - start), start);
    });
    return codes;
  }

  async decode(codes: Int32Array, count: number): Promise<Float32Array> {
    return await this.decodeEmbeddings(this.embed(codes), count);
  }

  /** Images of embeddings `[N, L, D]`, whether or not they are rows of the codebook. */
  async decodeEmbeddings(embeddings: Float32Array, count: number): Promise<Float32Array> {
    const pixels = this.imageSize ** 2 * 3;
    const out = new Float32Array(count * pixels);
    const shape = [this.positions, this.dimension];
    await this.#batches(embeddings, count, this.positions * this.dimension, shape, async (batch, at) => {
      using images = await this.#decodeLatents(reshape(batch, [-1, this.dimension]));
      out.set(((await images.data()) as Float32Array).subarray(0, out.length - at * pixels), at * pixels);
    });
    return out;
  }

  dispose(): void {
    this.model.dispose();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }

  /** Runs over `count` rows in batches of one size, so that one program serves all. */
  async #batches(
    values: Float32Array,
    count: number,
    size: number,
    shape: readonly number[],
    run: (batch: Tensor, at: number) => Promise<void>,
  ): Promise<void> {
    if (values.length !== count * size) {
      throw new SynthError("SYNTH_DATA", `${values.length} values are not ${count} rows of ${size}`);
    }
    // A single image does not pay for a whole batch.
    const rows = Math.min(batchRows, count);
    for (let at = 0; at < count; at += rows) {
      const some = values.subarray(at * size, Math.min(at + rows, count) * size);
      const batch = new Float32Array(rows * size);
      batch.set(some);
      await run(tensor(batch, { shape: [rows, ...shape] }), at);
    }
  }
}
