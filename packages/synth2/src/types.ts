/** What the stages hand to one another. */

/** One object of a scene of the built-in world. */
export interface SceneObject {
  shape: string;
  colour: string;
  size: "small" | "large";
  /** Row and column of the 3 × 3 grid that it stands on, from the top left. */
  row: number;
  column: number;
}

/** What is true of a picture of the built-in world, or what a caption says of it (then unsaid attributes are missing). */
export interface SceneAttributes {
  objects: SceneObject[];
}

/** A picture: rows from the top, red, green, blue, 8 bits each. */
export interface RgbImage {
  width: number;
  height: number;
  /** `[height, width, 3]` */
  pixels: Uint8Array;
}

export interface PairedSample {
  id: string;
  /** `[size, size, 3]`: RGB, rows from the top. */
  image: Uint8Array;
  captions: string[];
  attributes?: SceneAttributes;
}

/** Images with captions, at random access. Every image has the same size. */
export interface PairedDataset {
  readonly length: number;
  /** Width and height of every image. */
  readonly size: number;
  /** @param index in `[0, length)` */
  get(index: number): Promise<PairedSample>;
}

/** Embeddings of images: real (encoded by the image tokenizer) or synthetic (drawn by the generator). */
export interface EmbeddedSample {
  id: string;
  /** `[positions, dimension]`: rows of the codebook. */
  embedding: Float32Array;
  captions: string[];
}

/** Embeddings with captions, at random access. */
export interface EmbeddedDataset {
  readonly length: number;
  /** L, positions of an image's grid, row by row. */
  readonly positions: number;
  /** D, of one embedding. */
  readonly dimension: number;
  /** SHA-256 of the image tokenizer that the embeddings come from; datasets mix only when it is the same. */
  readonly tokenizerHash: string;
  get(index: number): EmbeddedSample | Promise<EmbeddedSample>;
  /** Several at once, where that costs less. */
  getMany?(indices: readonly number[]): Promise<EmbeddedSample[]>;
}

/** A frozen image tokenizer: pixels to codes to embeddings and back. Images are NHWC in [-1, 1]. */
export interface ImageTokenizer {
  /** Width and height of its images. */
  readonly imageSize: number;
  /** Width and height of its grid of codes; L is its square. */
  readonly gridSize: number;
  readonly codebookSize: number;
  readonly dimension: number;
  /** SHA-256 of configuration and weights. */
  readonly hash: string;
  /** @param images `[N, size, size, 3]` in [-1, 1] @returns codes `[N, L]` */
  encode(images: Float32Array, count: number): Promise<Int32Array>;
  /** @param codes `[N, L]` @returns rows of the codebook `[N, L, D]` */
  embed(codes: Int32Array): Float32Array;
  /** @param codes `[N, L]` @returns `[N, size, size, 3]` in [-1, 1] */
  decode(codes: Int32Array, count: number): Promise<Float32Array>;
  dispose(): void;
}
