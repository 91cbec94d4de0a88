import { MixtureOfExperts } from "../nn/mixture-of-experts.js";
import type { InitialValues } from "../nn/random-init.js";
import type { GateMode } from "../ops/moe.js";
import type { Tensor } from "../tensor/tensor.js";
import { CausalLM, DecoderBlock, type DecoderConfig, type FeedForwardResult } from "./causal-lm.js";

export interface MixtralConfig extends DecoderConfig {
  /** Experts per layer. */
  experts: number;
  /** Experts that each token visits. */
  expertsPerToken: number;
  /** Default `topk-softmax`, as Mixtral. */
  gateMode?: GateMode;
}

class MixtralBlock extends DecoderBlock {
  readonly blockSparseMoe: MixtureOfExperts;

  constructor(config: MixtralConfig, initial: InitialValues) {
    super(config, initial);
    const {
      hiddenSize,
      intermediateSize,
      initializerRange: standardDeviation,
      experts,
      expertsPerToken: topK,
      gateMode,
    } = config;
    const sizes = { hiddenSize, intermediateSize, standardDeviation, initial, experts, topK };
    this.blockSparseMoe = new MixtureOfExperts(gateMode ? { ...sizes, gateMode } : sizes);
  }

  protected override feedForward(x: Tensor): FeedForwardResult {
    return this.blockSparseMoe.forward(x);
  }
}

/** Mixtral: Llama with a mixture of experts in place of every feed-forward layer (arXiv 2401.04088). */
export class Mixtral extends CausalLM<MixtralConfig> {
  constructor(config: MixtralConfig, seed = 0) {
    super(config, seed, (initial) => new MixtralBlock(config, initial));
  }
}
