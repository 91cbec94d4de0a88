import {
  add,
  attention,
  Conv2d,
  concat,
  divide,
  GroupNorm,
  type InitialValues,
  Linear,
  Module,
  max,
  mean,
  min,
  multiply,
  RMSNorm,
  reshape,
  silu,
  sqrt,
  square,
  subtract,
  sum,
  type Tensor,
  tensor,
  transpose,
  upsampleNearest2,
} from "@trefoil/core";
import { booksOf, gridSizeOf, type TokenizerArchitecture } from "./architecture.js";

type Side = "encoder" | "decoder";
type Norm = GroupNorm | RMSNorm;

/** Statistics of a group norm are the whole picture's: where codes see only their patch, every position is normalised by itself. */
const normOf = (channels: number, { groups, codesSee }: Pick<TokenizerArchitecture, "groups" | "codesSee">): Norm =>
  codesSee === "patch" ? new RMSNorm(channels) : new GroupNorm(channels, groups);

/** Norm, SiLU, convolution, twice, beside a shortcut. */
class ResidualBlock extends Module {
  readonly norm1: Norm;
  readonly conv1: Conv2d;
  readonly norm2: Norm;
  readonly conv2: Conv2d;
  readonly shortcut: Conv2d | null;

  constructor(inputs: number, outputs: number, arch: TokenizerArchitecture, side: Side, initial: InitialValues) {
    super();
    const window = side === "encoder" && arch.codesSee === "patch" ? { kernelSize: 1 } : { padding: 1 };
    this.norm1 = normOf(inputs, arch);
    this.conv1 = new Conv2d(inputs, outputs, { ...window, initial });
    this.norm2 = normOf(outputs, arch);
    this.conv2 = new Conv2d(outputs, outputs, { ...window, initial });
    this.shortcut = inputs === outputs ? null : new Conv2d(inputs, outputs, { kernelSize: 1, initial });
  }

  forward(x: Tensor): Tensor {
    const inner = this.conv1.forward(silu(this.norm1.forward(x)));
    const outer = this.conv2.forward(silu(this.norm2.forward(inner)));
    return add(this.shortcut ? this.shortcut.forward(x) : x, outer);
  }
}

/** Single-head self-attention over all positions: the non-local block of VQ-GAN. */
class AttentionBlock extends Module {
  readonly norm: Norm;
  readonly queries: Linear;
  readonly keys: Linear;
  readonly values: Linear;
  readonly output: Linear;

  constructor(channels: number, arch: TokenizerArchitecture, initial: InitialValues) {
    super();
    this.norm = normOf(channels, arch);
    const projection = () => new Linear(channels, channels, { initial });
    [this.queries, this.keys, this.values, this.output] = [projection(), projection(), projection(), projection()];
  }

  forward(x: Tensor): Tensor {
    const [n, height, width, channels] = x.shape as [number, number, number, number];
    const rows = this.norm.forward(x);
    const heads = (layer: Linear) => reshape(layer.forward(rows), [n, height * width, 1, channels]);
    const mixed = attention(heads(this.queries), heads(this.keys), heads(this.values));
    return add(x, reshape(this.output.forward(reshape(mixed, [n, height * width, channels])), x.shape));
  }
}

type Block = ResidualBlock | AttentionBlock;

function middleBlocks(arch: TokenizerArchitecture, side: Side, initial: InitialValues): Block[] {
  const width = arch.channels.at(-1)!;
  const residual = () => new ResidualBlock(width, width, arch, side, initial);
  return arch.attention ? [residual(), new AttentionBlock(width, arch, initial), residual()] : [residual()];
}

const run = (blocks: readonly Block[], x: Tensor): Tensor => blocks.reduce((value, block) => block.forward(value), x);

class DownLevel extends Module {
  readonly down: Conv2d | null;
  readonly blocks: ResidualBlock[];

  constructor(inputs: number, outputs: number, first: boolean, arch: TokenizerArchitecture, initial: InitialValues) {
    super();
    // Padding at the bottom and right only, as in VQ-GAN.
    const window = arch.codesSee === "patch" ? { kernelSize: 2 } : { padding: [0, 1] as [number, number] };
    this.down = first ? null : new Conv2d(inputs, inputs, { stride: 2, ...window, initial });
    this.blocks = Array.from(
      { length: arch.residualBlocks },
      (_, i) => new ResidualBlock(i === 0 ? inputs : outputs, outputs, arch, "encoder", initial),
    );
  }

  forward(x: Tensor): Tensor {
    return run(this.blocks, this.down ? this.down.forward(x) : x);
  }
}

class UpLevel extends Module {
  readonly blocks: ResidualBlock[];
  readonly up: Conv2d | null;

  constructor(inputs: number, outputs: number, last: boolean, arch: TokenizerArchitecture, initial: InitialValues) {
    super();
    this.blocks = Array.from(
      { length: arch.residualBlocks },
      () => new ResidualBlock(inputs, inputs, arch, "decoder", initial),
    );
    this.up = last ? null : new Conv2d(inputs, outputs, { padding: 1, initial });
  }

  forward(x: Tensor): Tensor {
    const y = run(this.blocks, x);
    return this.up ? this.up.forward(upsampleNearest2(y)) : y;
  }
}

/** Images [N, S, S, C] to latents [N, g, g, codeWidth]. */
export class Encoder extends Module {
  readonly input: Conv2d;
  readonly levels: DownLevel[];
  readonly middle: Block[];
  readonly norm: Norm;
  readonly output: Conv2d;

  constructor(arch: TokenizerArchitecture, initial: InitialValues, inputs = 3) {
    super();
    const { channels, patchSize, codeWidth } = arch;
    const patches = patchSize === 1 ? { padding: 1 } : { kernelSize: patchSize, stride: patchSize };
    this.input = new Conv2d(inputs, channels[0]!, { ...patches, initial });
    this.levels = channels.map(
      (width, i) => new DownLevel(channels[Math.max(0, i - 1)]!, width, i === 0, arch, initial),
    );
    this.middle = middleBlocks(arch, "encoder", initial);
    this.norm = normOf(channels.at(-1)!, arch);
    this.output = new Conv2d(channels.at(-1)!, codeWidth, { kernelSize: 1, initial });
  }

  forward(images: Tensor): Tensor {
    const levels = this.levels.reduce((x, level) => level.forward(x), this.input.forward(images));
    return this.output.forward(silu(this.norm.forward(run(this.middle, levels))));
  }
}

/** Codes [N, g, g, codeWidth] to images [N, S, S, 3]. */
export class Decoder extends Module {
  readonly input: Conv2d;
  readonly middle: Block[];
  readonly levels: UpLevel[];
  readonly norm: Norm;
  /** Its weight is where the adaptive weight of the discriminator compares gradients. */
  readonly output: Conv2d;
  readonly #patchSize: number;

  constructor(arch: TokenizerArchitecture, initial: InitialValues) {
    super();
    const { channels, patchSize } = arch;
    const codeWidth = arch.codeWidth * booksOf(arch).length;
    this.input = new Conv2d(codeWidth, channels.at(-1)!, { padding: 1, initial });
    this.middle = middleBlocks(arch, "decoder", initial);
    this.levels = channels
      .map((width, i) => new UpLevel(width, channels[Math.max(0, i - 1)]!, i === 0, arch, initial))
      .reverse();
    this.norm = normOf(channels[0]!, arch);
    this.output = new Conv2d(channels[0]!, 3 * patchSize * patchSize, { padding: 1, initial });
    this.#patchSize = patchSize;
  }

  forward(codes: Tensor): Tensor {
    const levels = this.levels.reduce((x, level) => level.forward(x), run(this.middle, this.input.forward(codes)));
    return unfoldPatches(this.output.forward(silu(this.norm.forward(levels))), this.#patchSize);
  }
}

/** [N, h, w, 3 p p] to [N, h p, w p, 3]: every pixel's channels become a patch. */
function unfoldPatches(x: Tensor, p: number): Tensor {
  if (p === 1) return x;
  const [n, height, width] = x.shape as [number, number, number, number];
  const patches = transpose(reshape(x, [n, height, width, p, 3 * p]), [0, 1, 3, 2, 4]);
  return reshape(patches, [n, height * p, width * p, 3]);
}

/** The pixels of patches apart from one another: [N, S, S, C] to [N, g, p, g, p, C]; axes 2 and 4 are those of a patch. */
function patchesOf(images: Tensor, patch: number): Tensor {
  const [n, size, , channels] = images.shape as [number, number, number, number];
  return reshape(images, [n, size / patch, patch, size / patch, patch, channels]);
}

/**
 * Images [N, S, S, 3] to their patches in grey, each of mean 0 and deviation 1, [N, S, S, 1]: what is drawn, without its colours.
 * @param patch pixels per side
 */
function structureOf(images: Tensor, patch: number): Tensor {
  const [n, size] = images.shape as [number, number];
  const luminance = sum(multiply(images, tensor([0.299, 0.587, 0.114])), { axes: 3, keepDims: true });
  const patches = patchesOf(luminance, patch);
  const overPatch = { axes: [2, 4], keepDims: true };
  const centred = subtract(patches, mean(patches, overPatch));
  // Flat patches stay flat: less than a hundredth of the range is no structure.
  const deviation = sqrt(add(mean(square(centred), overPatch), 1e-4));
  return reshape(divide(centred, deviation), [n, size, size, 1]);
}

/**
 * The range of colours of each patch, least and greatest value of each channel, [N, g, g, 6]: what block truncation coding keeps
 * beside the structure (Delp and Mitchell 1979).
 */
export function coloursOf(images: Tensor, patch: number): Tensor {
  const patches = patchesOf(images, patch);
  return concat([min(patches, { axes: [2, 4] }), max(patches, { axes: [2, 4] })], 3);
}

/** Ranges of colours [N, g, g, 6] to latents [N, g, g, codeWidth]; every position by itself. */
class ColourEncoder extends Module {
  readonly layers: Linear[];

  constructor({ channels, codeWidth }: TokenizerArchitecture, initial: InitialValues) {
    super();
    const width = channels.at(-1)!;
    this.layers = [
      new Linear(6, width, { initial }),
      new Linear(width, width, { initial }),
      new Linear(width, codeWidth, { initial }),
    ];
  }

  forward(colours: Tensor): Tensor {
    return this.layers.reduce((x, layer, i) => layer.forward(i === 0 ? x : silu(x)), colours);
  }
}

/** Encoders and decoder; the codebooks stand between them. */
export class Autoencoder extends Module {
  /** Reads pictures; or what `structureOf` leaves of them, where there is a codebook for it. */
  readonly encoder: Encoder;
  /** Reads `coloursOf` pictures, where structure has a codebook of its own. */
  readonly colourEncoder: ColourEncoder | null;
  readonly decoder: Decoder;
  /** Width and height of the grid of codes. */
  readonly gridSize: number;

  constructor(
    readonly architecture: TokenizerArchitecture,
    initial: InitialValues,
  ) {
    super();
    this.gridSize = gridSizeOf(architecture);
    const apart = architecture.structureCodes > 0;
    this.encoder = new Encoder(architecture, initial, apart ? 1 : 3);
    this.colourEncoder = apart ? new ColourEncoder(architecture, initial) : null;
    this.decoder = new Decoder(architecture, initial);
  }

  /** Latents of images [N, S, S, 3] for each codebook, [N g g, codeWidth] each. */
  encode(images: Tensor): Tensor[] {
    const rows = (latents: Tensor) => reshape(latents, [-1, this.architecture.codeWidth]);
    if (!this.colourEncoder) return [rows(this.encoder.forward(images))];
    const patch = this.architecture.imageSize / this.gridSize;
    return [
      rows(this.colourEncoder.forward(coloursOf(images, patch))),
      rows(this.encoder.forward(structureOf(images, patch))),
    ];
  }
}
