import { FeedForward } from "../nn/feed-forward.js";
import type { InitialValues } from "../nn/random-init.js";
import type { Tensor } from "../tensor/tensor.js";
import { CausalLM, DecoderBlock, type DecoderConfig, type FeedForwardResult } from "./causal-lm.js";

export class LlamaBlock extends DecoderBlock {
  readonly mlp: FeedForward;

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
