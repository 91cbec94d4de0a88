import {
  add,
  argmax,
  crossEntropy,
  Embedding,
  equal,
  InitialValues,
  Linear,
  logsumexp,
  Module,
  mean,
  multiply,
  reshape,
  subtract,
  sum,
  type Tensor,
} from "@trefoil/core";
import type { GeneratorArchitecture } from "./architecture.js";
import { type Condition, ConditionedStack } from "./stack.js";
import type { TextBatch } from "./text-encoder.js";

/** A batch of masked codes. */
export interface MaskedBatch {
  /** i32 [batch, L]: the codes, the mask token where they are hidden. */
  tokens: Tensor;
  /** i32 [batch, L]: the hidden codes, -1 elsewhere. */
  targets: Tensor;
  /** [batch, L]: what each hidden code counts, 0 elsewhere. */
  weights: Tensor;
}

/** Predicts hidden codes of a picture from the others and a caption. */
export class MaskedGenerator extends Module {
  /** Codes and, last, the mask token. */
  readonly codeEmbed: Embedding;
  readonly stack: ConditionedStack;
  readonly head: Linear;

  constructor(
    readonly architecture: GeneratorArchitecture,
    seed = 0,
  ) {
    super();
    const initial = new InitialValues(seed);
    const { codes, width } = architecture;
    this.codeEmbed = new Embedding(codes + 1, width, { standardDeviation: 0.3, initial });
    this.stack = new ConditionedStack(architecture, initial);
    this.head = new Linear(width, codes, { initial });
  }

  /** The token that hides a code. */
  get maskToken(): number {
    return this.architecture.codes;
  }

  condition(text: TextBatch): Condition {
    return this.stack.condition(text);
  }

  /** i32 [batch, L] -> [batch, L, codes]. */
  logits(tokens: Tensor, condition: Condition): Tensor {
    return this.head.forward(this.stack.forward(this.codeEmbed.forward(tokens), condition));
  }

  /**
   * Cross-entropy on the hidden codes against `(1 - ε) one-hot + ε / codes`, ε = `smoothing` (MaskGIT, arXiv 2202.04200, section 3.1).
   * @returns loss; likelihood: the same without smoothing, nats per code; accuracy on hidden codes
   */
  loss(text: TextBatch, batch: MaskedBatch, smoothing: number): Record<"loss" | "likelihood" | "accuracy", Tensor> {
    const { codes } = this.architecture;
    const logits = reshape(this.logits(batch.tokens, this.condition(text)), [-1, codes]);
    const targets = reshape(batch.targets, [-1]);
    const weights = reshape(batch.weights, [-1]);
    const { loss: likelihood } = crossEntropy(logits, targets, weights);
    // -Σ_v log p_v / codes of each position
    const spread = smoothing > 0 ? subtract(logsumexp(logits), mean(logits, { axes: 1 })) : null;
    const loss = spread
      ? add(multiply(likelihood, 1 - smoothing), multiply(sum(multiply(spread, weights)), smoothing))
      : likelihood;
    return { loss, likelihood, accuracy: sum(multiply(equal(argmax(logits), targets), weights)) };
  }

  dispose(): void {
    for (const parameter of this.namedParameters().values()) parameter.dispose();
  }
}
