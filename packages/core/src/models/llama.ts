import { FeedForward } from "../nn/feed-forward.js";
import type { InitialValues } from "../nn/random-init.js";
import type { Tensor } from "../tensor/tensor.js";
import { CausalLM, DecoderBlock, type DecoderConfig, type FeedForwardResult } from "./causal-lm.js";

/** A block of Llama, and of Mixtral where a layer is no mixture. */
export class LlamaBlock extends DecoderBlock {
  /** May be replaced by a subclass, such as one with adapters. */
  mlp: FeedForward;

  constructor(config: DecoderConfig, initial: InitialValues) {
    super(config, initial);
    const { hiddenSize, intermediateSize, initializerRange: standardDeviation } = config;
    this.mlp = new FeedForward({ hiddenSize, intermediateSize, standardDeviation, initial });
  }

  protected override feedForward(x: Tensor): FeedForwardResult {
    return { output: this.mlp.forward(x) };
  }
}

/** Llama (and Mistral without a window): RMSNorm, rotary positions, grouped-query attention, SwiGLU. */
export class Llama extends CausalLM {
  constructor(config: DecoderConfig, seed = 0) {
    super(config, seed, (initial) => new LlamaBlock(config, initial));
  }
}
