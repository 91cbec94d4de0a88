import { MixtureOfExperts } from "../nn/mixture-of-experts.js";
import type { InitialValues } from "../nn/random-init.js";
import type { RouterConfig, RouterTraining } from "../nn/routing.js";
import type { Tensor } from "../tensor/tensor.js";
import { CausalLM, DecoderBlock, type DecoderConfig, type FeedForwardResult } from "./causal-lm.js";
import { LlamaBlock } from "./llama.js";

export interface MixtralConfig extends DecoderConfig {
  /** Experts per layer. */
  experts: number;
  /** Experts that each token visits. */
  expertsPerToken: number;
  /** Default: softmax over the `expertsPerToken` largest logits, as Mixtral. */
  router?: RouterConfig;
  /** Layers that are mixtures, ascending; the others have one feed-forward layer. Default: all. */
  moeLayers?: readonly number[];
}

class MixtralBlock extends DecoderBlock {
  readonly blockSparseMoe: MixtureOfExperts;

  constructor(config: MixtralConfig, initial: InitialValues, layer: number) {
    super(config, initial);
    const {
      hiddenSize,
      intermediateSize,
      initializerRange: standardDeviation,
      experts,
      expertsPerToken: topK,
    } = config;
    const router: RouterConfig =
      layer === 0 && config.router?.softFirstLayer ? { kind: "soft" } : (config.router ?? { kind: "top-k" });
    const sizes = { hiddenSize, intermediateSize, standardDeviation, initial, experts, topK };
    this.blockSparseMoe = new MixtureOfExperts({ ...sizes, router });
  }

  protected override feedForward(x: Tensor, router?: RouterTraining): FeedForwardResult {
    return this.blockSparseMoe.forward(x, router);
  }
}

/** Mixtral: Llama with a mixture of experts in place of every feed-forward layer, or of some (arXiv 2401.04088). */
export class Mixtral extends CausalLM<MixtralConfig> {
  constructor(config: MixtralConfig, seed = 0) {
    const isMixture = (layer: number) => config.moeLayers?.includes(layer) ?? true;
    super(config, seed, (initial, layer) =>
      isMixture(layer) ? new MixtralBlock(config, initial, layer) : new LlamaBlock(config, initial),
    );
  }
}
