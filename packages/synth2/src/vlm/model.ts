import {
  type CausalLM,
  type GenerativeModel,
  InitialValues,
  linearCrossEntropy,
  Module,
  reshape,
  type Tensor,
} from "@trefoil/core";
import type { VlmArchitecture } from "./architecture.js";
import { GatedBlock, PerceiverResampler, type PictureMemory } from "./layers.js";

/** Captions of a batch as the language model is trained on them. */
export interface CaptionTargets {
  /** i32 [batch, sequence]: beginning of text, caption. */
  tokens: Tensor;
  /** i32 [batch, sequence]: caption, end of text; -1 behind it. */
  targets: Tensor;
  /** [batch, sequence]: what each target counts. */
  weights: Tensor;
}

/**
 * A frozen language model that reads pictures: resampler and gated blocks are its parameters; those of the language model are not among
 * them and never change.
 */
export class VisionLanguageModel extends Module {
  readonly resampler: PerceiverResampler;
  readonly blocks: GatedBlock[];
  // Private: `namedParameters` does not find it.
  readonly #language: CausalLM;

  /** @param seed of the initial weights */
  constructor(
    readonly architecture: VlmArchitecture,
    language: CausalLM,
    seed = 0,
  ) {
    super();
    const initial = new InitialValues(seed);
    this.resampler = new PerceiverResampler(architecture, initial);
    const blocks = Math.ceil(architecture.textLayers / architecture.everyLayers);
    this.blocks = Array.from({ length: blocks }, () => new GatedBlock(architecture, initial));
    this.#language = language;
  }

  /** What the gated blocks read of pictures, block by block. @param embeddings [batch, gridSize², codeWidth] */
  memories(embeddings: Tensor): PictureMemory[] {
    const latents = this.resampler.forward(embeddings);
    return this.blocks.map((block) => block.attention.memory(latents));
  }

  /** The language model with these pictures before its eyes. */
  seeing(memories: readonly PictureMemory[]): GenerativeModel {
    const language = this.#language;
    const { everyLayers } = this.architecture;
    const beforeLayer = (x: Tensor, layer: number): Tensor => {
      const block = layer / everyLayers;
      return Number.isInteger(block) ? this.blocks[block]!.forward(x, memories[block]!) : x;
    };
    return {
      config: language.config,
      hidden: (tokens, context) => language.hidden(tokens, { ...context, beforeLayer }),
      logitsAt: (hidden, index) => language.logitsAt(hidden, index),
    };
  }

  /** Cross-entropy of captions given their pictures. */
  loss(embeddings: Tensor, { tokens, targets, weights }: CaptionTargets): Tensor {
    const { hidden } = this.seeing(this.memories(embeddings)).hidden(tokens);
    const rows = [tokens.size];
    const flat = reshape(hidden, [tokens.size, this.architecture.textWidth]);
    const head = this.#language.headWeight;
    return linearCrossEntropy(flat, head, reshape(targets, rows), reshape(weights, rows)).loss;
  }
}
