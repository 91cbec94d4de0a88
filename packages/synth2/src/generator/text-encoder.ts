import { Embedding, type InitialValues, Module, Parameter, RMSNorm, reshape, type Tensor, where } from "@trefoil/core";
import type { GeneratorArchitecture } from "./architecture.js";
import { Block } from "./layers.js";
import { Rotary } from "./rotary.js";
import { WordWindow } from "./word-window.js";

/** Captions as the generator reads them. */
export interface TextBatch {
  /** i32 [batch, maxTextTokens]; what lies beyond the length does not matter. */
  tokens: Tensor;
  /** i32 [batch], at least 1. */
  lengths: Tensor;
  /** [batch]: 1 where the caption is kept, 0 where the condition is dropped. */
  kept: Tensor;
}

/** What the image side reads of the captions. */
export interface TextStates {
  /** [batch, maxTextTokens, textWidth] */
  states: Tensor;
  /** i32 [batch] */
  lengths: Tensor;
}

/** A small bidirectional transformer over the caption, behind a window over its words; trained along with the generator. */
export class TextEncoder extends Module {
  readonly embed: Embedding;
  readonly window: WordWindow;
  readonly blocks: Block[];
  readonly norm: RMSNorm;
  /** Stands for "no caption", [textWidth]: the only state that an image without condition reads. */
  readonly absent: Parameter;
  readonly #rotary: Rotary;

  constructor(arch: GeneratorArchitecture, initial: InitialValues) {
    super();
    const { vocabulary, textWidth: width, textLayers, textWindow, maxTextTokens } = arch;
    this.embed = new Embedding(vocabulary, width, { standardDeviation: 0.3, initial });
    this.window = new WordWindow(width, textWindow, initial);
    const wanted = Math.max(1, Math.round(width / (arch.width / arch.heads)));
    // Rotary embeddings turn the numbers of a head in pairs.
    const heads = width % (2 * wanted) === 0 ? wanted : 1;
    const sizes = { width, heads, feedForward: 2 * width };
    this.#rotary = Rotary.along(maxTextTokens, width / heads);
    this.blocks = Array.from({ length: textLayers }, () => new Block(sizes, initial));
    this.norm = new RMSNorm(width);
    this.absent = new Parameter([width], { data: initial.normal([width], 0.3) });
  }

  forward({ tokens, lengths, kept }: TextBatch): TextStates {
    const [batch] = tokens.shape as [number, number];
    let x = this.window.forward(this.embed.forward(tokens), lengths);
    for (const block of this.blocks) x = block.forward(x, this.#rotary, lengths);
    const states = where(reshape(kept, [batch, 1, 1]), this.norm.forward(x), reshape(this.absent, [1, 1, -1]));
    // Every state of a dropped caption is the same, so how many of them are read makes no difference.
    return { states, lengths };
  }
}
