import { compile, gatherRows, InitialValues, Module, reshape, type Tensor, tensor, vqLookup } from "@trefoil/core";
import { SynthError } from "../errors.js";
import { loadModelWeights, readModelConfig, saveModelFolder } from "../models/folder.js";
import type { ImageTokenizer } from "../types.js";
import { architectureSchema, type TokenizerArchitecture } from "./architecture.js";
import { Codebook, unitRows } from "./codebook.js";
import { Autoencoder } from "./network.js";

const kind = "trefoil-image-tokenizer";
/** Images of one run of the network; a last, shorter batch is filled up. */
const batchRows = 32;

/** Encoder, codebook and decoder (VQ-GAN, arXiv 2012.09841). */
export class TokenizerModel extends Module {
  readonly autoencoder: Autoencoder;
  readonly codebook: Codebook;

  constructor(
    readonly architecture: TokenizerArchitecture,
    seed = 0,
  ) {
    super();
    const initial = new InitialValues(seed);
    this.autoencoder = new Autoencoder(architecture, initial);
    this.codebook = new Codebook(architecture.codes, architecture.codeWidth, architecture.normaliseCodes, initial);
  }

  /** Images [N, S, S, 3] to latents [N g g, D]. */
  latents(images: Tensor): Tensor {
    return reshape(this.autoencoder.encoder.forward(images), [-1, this.architecture.codeWidth]);
  }

  /** Codes [N g g, D] to images [N, S, S, 3]. */
  images(codes: Tensor): Tensor {
    const { gridSize } = this.autoencoder;
    return this.autoencoder.decoder.forward(reshape(codes, [-1, gridSize, gridSize, this.architecture.codeWidth]));
  }

  dispose(): void {
    for (const parameter of this.namedParameters().values()) parameter.dispose();
  }
}

/** Writes a tokenizer's folder. @returns its hash */
export const saveImageTokenizer = (model: TokenizerModel, path: string, overwrite = false): Promise<string> =>
  saveModelFolder(model, path, { kind, architecture: model.architecture, overwrite });

/** A trained, frozen tokenizer. */
export class VqImageTokenizer implements ImageTokenizer {
  readonly imageSize: number;
  readonly gridSize: number;
  readonly codebookSize: number;
  readonly dimension: number;
  readonly #table: Float32Array;
  readonly #encode: (images: Tensor) => Promise<Tensor>;
  readonly #latents: (images: Tensor) => Promise<Tensor>;
  readonly #decode: (codes: Tensor) => Promise<Tensor>;
  readonly #decodeLatents: (latents: Tensor) => Promise<Tensor>;

  private constructor(
    readonly model: TokenizerModel,
    readonly hash: string,
    table: Float32Array,
  ) {
    const { imageSize, codes, codeWidth, normaliseCodes } = model.architecture;
    this.imageSize = imageSize;
    this.gridSize = model.autoencoder.gridSize;
    this.codebookSize = codes;
    this.dimension = codeWidth;
    this.#table = table;
    const latents = (images: Tensor) => (normaliseCodes ? unitRows(model.latents(images)) : model.latents(images));
    this.#latents = compile(latents);
    this.#encode = compile((images: Tensor) => vqLookup(latents(images), model.codebook.table()).index);
    this.#decode = compile((index: Tensor) => model.images(gatherRows(model.codebook.table(), index)));
    this.#decodeLatents = compile((rows: Tensor) => model.images(rows));
  }

  /** @throws SynthError `SYNTH_MODEL` */
  static async open(path: string): Promise<VqImageTokenizer> {
    const { architecture, sha256 } = await readModelConfig(path, kind, architectureSchema);
    const model = new TokenizerModel(architecture);
    await loadModelWeights(model, path, { architecture, sha256 });
    return VqImageTokenizer.of(model, sha256);
  }

  static async of(model: TokenizerModel, hash: string): Promise<VqImageTokenizer> {
    const table = (await model.codebook.table().data()) as Float32Array;
    return new VqImageTokenizer(model, hash, table);
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
      out.set(this.#table.subarray(code * dimension, (code + 1) * dimension), i * dimension);
    }
    return out;
  }

  async decode(codes: Int32Array, count: number): Promise<Float32Array> {
    return await this.#decodeWith(this.#decode, codes, count, []);
  }

  /** Images of embeddings `[N, L, D]`, whether or not they are rows of the codebook. */
  async decodeEmbeddings(embeddings: Float32Array, count: number): Promise<Float32Array> {
    return await this.#decodeWith(this.#decodeLatents, embeddings, count, [this.dimension]);
  }

  dispose(): void {
    this.model.dispose();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }

  async #decodeWith(
    decode: (values: Tensor) => Promise<Tensor>,
    values: Int32Array | Float32Array,
    count: number,
    row: number[],
  ): Promise<Float32Array> {
    const pixels = this.imageSize ** 2 * 3;
    const out = new Float32Array(count * pixels);
    const each = this.positions * (row[0] ?? 1);
    await this.#batches(values, count, each, [this.positions, ...row], async (batch, at) => {
      using images = await decode(reshape(batch, [-1, ...row]));
      out.set(((await images.data()) as Float32Array).subarray(0, out.length - at * pixels), at * pixels);
    });
    return out;
  }

  /** Runs over `count` rows in batches of one size, so that one program serves all. */
  async #batches(
    values: Int32Array | Float32Array,
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
      const batch = values instanceof Int32Array ? new Int32Array(rows * size) : new Float32Array(rows * size);
      batch.set(some);
      await run(tensor(batch, { shape: [rows, ...shape] }), at);
    }
  }
}
