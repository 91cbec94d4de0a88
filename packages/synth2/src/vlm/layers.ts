import {
  add,
  attention,
  broadcastTo,
  concat,
  gelu,
  type InitialValues,
  LayerNorm,
  Linear,
  Module,
  multiply,
  Parameter,
  reshape,
  type Tensor,
  tanh,
  transpose,
} from "@trefoil/core";
import type { VlmArchitecture } from "./architecture.js";

/** Keys and values of a picture for one gated block, [batch, latents, heads, headDim] each. */
export interface PictureMemory {
  keys: Tensor;
  values: Tensor;
}

/** Standard deviation of queries and keys at the start, for normed inputs: of logits, its square. */
const sharpness = 1.7;

/** Attention from one sequence to another, without positions, masks and biases. */
export class CrossAttention extends Module {
  readonly queries: Linear;
  readonly keys: Linear;
  readonly values: Linear;
  readonly output: Linear;
  readonly #heads: number;

  constructor(width: number, sourceWidth: number, heads: number, initial: InitialValues) {
    super();
    const layer = (inputs: number) => new Linear(inputs, width, { bias: false, initial });
    // Sharp from the start: with flat attention every latent sees the mean of all patches, and hundreds of steps pass until one looks
    // somewhere.
    const sharp = (inputs: number) =>
      new Linear(inputs, width, { bias: false, standardDeviation: sharpness / Math.sqrt(inputs), initial });
    [this.queries, this.keys, this.values] = [sharp(width), sharp(sourceWidth), layer(sourceWidth)];
    this.output = layer(width);
    this.#heads = heads;
  }

  /** @param source [batch, keys, sourceWidth] */
  memory(source: Tensor): PictureMemory {
    return { keys: this.#split(this.keys.forward(source)), values: this.#split(this.values.forward(source)) };
  }

  /** x [batch, sequence, width] -> the same shape */
  forward(x: Tensor, { keys, values }: PictureMemory): Tensor {
    return this.output.forward(reshape(attention(this.#split(this.queries.forward(x)), keys, values), x.shape));
  }

  #split(x: Tensor): Tensor {
    const [batch, rows, width] = x.shape as [number, number, number];
    return reshape(x, [batch, rows, this.#heads, width / this.#heads]);
  }
}

/** Norm, linear to four times the width, GELU, linear back. */
class GeluFeedForward extends Module {
  readonly norm: LayerNorm;
  readonly up: Linear;
  readonly down: Linear;

  constructor(width: number, initial: InitialValues) {
    super();
    this.norm = new LayerNorm(width);
    this.up = new Linear(width, 4 * width, { bias: false, initial });
    this.down = new Linear(4 * width, width, { bias: false, initial });
  }

  forward(x: Tensor): Tensor {
    return this.down.forward(gelu(this.up.forward(this.norm.forward(x))));
  }
}

/** Latents read the picture and one another, then pass a feed-forward layer. */
class ResamplerLayer extends Module {
  readonly pictureNorm: LayerNorm;
  readonly latentNorm: LayerNorm;
  readonly attention: CrossAttention;
  readonly mlp: GeluFeedForward;

  constructor(width: number, heads: number, initial: InitialValues) {
    super();
    this.pictureNorm = new LayerNorm(width);
    this.latentNorm = new LayerNorm(width);
    this.attention = new CrossAttention(width, width, heads, initial);
    this.mlp = new GeluFeedForward(width, initial);
  }

  forward(latents: Tensor, picture: Tensor): Tensor {
    const queries = this.latentNorm.forward(latents);
    const memory = this.attention.memory(concat([this.pictureNorm.forward(picture), queries], 1));
    const attended = add(latents, this.attention.forward(queries, memory));
    return add(attended, this.mlp.forward(attended));
  }
}

/** Patches read one another, then pass a feed-forward layer. */
class PictureLayer extends Module {
  readonly norm: LayerNorm;
  readonly attention: CrossAttention;
  readonly mlp: GeluFeedForward;

  constructor(width: number, heads: number, initial: InitialValues) {
    super();
    this.norm = new LayerNorm(width);
    this.attention = new CrossAttention(width, width, heads, initial);
    this.mlp = new GeluFeedForward(width, initial);
  }

  /** x [batch, patches, width] -> the same shape */
  forward(x: Tensor): Tensor {
    const normed = this.norm.forward(x);
    const attended = add(x, this.attention.forward(normed, this.attention.memory(normed)));
    return add(attended, this.mlp.forward(attended));
  }
}

/**
 * What Flamingo leaves to a pretrained encoder: patches of neighbouring codes, with learned rows and columns, that read one another. A
 * resampler alone averages codes and places apart: it learns which colours there are, and hardly which shape stands where.
 */
class PictureEncoder extends Module {
  readonly embed: Linear;
  /** Of the rows and of the columns of patches, [gridSize / patch, width] each. */
  readonly rows: Parameter;
  readonly columns: Parameter;
  readonly layers: PictureLayer[];
  readonly #architecture: VlmArchitecture;

  constructor(architecture: VlmArchitecture, initial: InitialValues) {
    super();
    const { width, heads, pictureLayers, placeDeviation, gridSize, patch, codeWidth } = architecture;
    const shape = [gridSize / patch, width];
    const table = () => new Parameter(shape, { data: initial.normal(shape, placeDeviation) });
    // Embeddings are around 0.3: what is in a patch begins at 0.6, where it is at 1.4 times the deviation of places.
    const inputs = patch * patch * codeWidth;
    this.embed = new Linear(inputs, width, { bias: false, standardDeviation: 2 / Math.sqrt(inputs), initial });
    [this.rows, this.columns] = [table(), table()];
    this.layers = Array.from({ length: pictureLayers }, () => new PictureLayer(width, heads, initial));
    this.#architecture = architecture;
  }

  /** embeddings [batch, gridSize², codeWidth] -> [batch, (gridSize / patch)², width] */
  forward(embeddings: Tensor): Tensor {
    const [batch] = embeddings.shape as [number];
    const { gridSize, patch, codeWidth, width } = this.#architecture;
    const size = gridSize / patch;
    const split = reshape(embeddings, [batch, size, patch, size, patch, codeWidth]);
    const patches = reshape(transpose(split, [0, 1, 3, 2, 4, 5]), [batch, size * size, patch * patch * codeWidth]);
    const places = add(reshape(this.rows, [size, 1, width]), reshape(this.columns, [1, size, width]));
    const placed = add(this.embed.forward(patches), reshape(places, [size * size, width]));
    return this.layers.reduce((x, layer) => layer.forward(x), placed);
  }
}

/**
 * Perceiver resampler (Flamingo, arXiv 2204.14198, section 2.1.1): learned latents that read a picture of any size through
 * cross-attention, keys and values from picture and latents.
 */
export class PerceiverResampler extends Module {
  readonly encoder: PictureEncoder;
  /** [latents, width] */
  readonly latents: Parameter;
  readonly layers: ResamplerLayer[];
  readonly norm: LayerNorm;

  constructor(architecture: VlmArchitecture, initial: InitialValues) {
    super();
    const { width, heads, latents, layers } = architecture;
    this.encoder = new PictureEncoder(architecture, initial);
    this.latents = new Parameter([latents, width], { data: initial.normal([latents, width], 0.5) });
    this.layers = Array.from({ length: layers }, () => new ResamplerLayer(width, heads, initial));
    this.norm = new LayerNorm(width);
  }

  /** embeddings [batch, gridSize², codeWidth] -> [batch, latents, width] */
  forward(embeddings: Tensor): Tensor {
    const [batch] = embeddings.shape as [number];
    const picture = this.encoder.forward(embeddings);
    const [latents, width] = this.latents.shape as [number, number];
    const start = broadcastTo(reshape(this.latents, [1, latents, width]), [batch, latents, width]);
    return this.norm.forward(this.layers.reduce((x, layer) => layer.forward(x, picture), start));
  }
}

/**
 * Gated cross-attention before a layer of a language model (Flamingo, section 2.1.2): y + tanh(α) attention, then y + tanh(β)
 * feed-forward. Both gates start at 0, which leaves the language model as it is.
 */
export class GatedBlock extends Module {
  readonly norm: LayerNorm;
  readonly attention: CrossAttention;
  readonly mlp: GeluFeedForward;
  /** α and β, [1] each. */
  readonly attentionGate: Parameter;
  readonly mlpGate: Parameter;

  constructor({ width, textWidth, heads }: VlmArchitecture, initial: InitialValues) {
    super();
    this.norm = new LayerNorm(textWidth);
    this.attention = new CrossAttention(textWidth, width, heads, initial);
    this.mlp = new GeluFeedForward(textWidth, initial);
    this.attentionGate = new Parameter([1]);
    this.mlpGate = new Parameter([1]);
  }

  /** x [batch, sequence, textWidth] -> the same shape */
  forward(x: Tensor, memory: PictureMemory): Tensor {
    const attended = this.attention.forward(this.norm.forward(x), memory);
    const y = add(x, multiply(tanh(this.attentionGate), attended));
    return add(y, multiply(tanh(this.mlpGate), this.mlp.forward(y)));
  }
}
