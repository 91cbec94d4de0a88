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
  multiply,
  reshape,
  subtract,
  sum,
  type Tensor,
  tensor,
} from "@trefoil/core";
import type { GeneratorArchitecture } from "./architecture.js";
import { type Slots, slotsOf } from "./slots.js";
import { type Condition, ConditionedStack, type NoCondition } from "./stack.js";
import type { TextBatch } from "./text-encoder.js";

/** Added to logits of what cannot be: its probability is 0 in single precision. */
const impossible = -1e4;

/** A batch of masked codes. */
export interface MaskedBatch {
  /** i32 [batch, L books]: entries of the codebooks, the mask token where they are hidden. */
  tokens: Tensor;
  /** i32 [batch, L books]: the hidden entries, -1 elsewhere. */
  targets: Tensor;
  /** [batch, L books]: what each hidden entry counts, 0 elsewhere. */
  weights: Tensor;
}

/** Predicts hidden codes of a picture from the others and a caption. */
export class MaskedGenerator extends Module {
  /** How codes are taken apart. */
  readonly slots: Slots;
  /** Entries of the codebooks and, last, the mask token. */
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
    this.slots = slotsOf(architecture.books ?? [codes]);
    const { alphabet } = this.slots;
    this.codeEmbed = new Embedding(alphabet + 1, width, { standardDeviation: 0.3, initial });
    this.stack = new ConditionedStack(architecture, initial);
    this.head = new Linear(width, alphabet, { initial });
  }

  /** The token that hides a code. */
  get maskToken(): number {
    return this.slots.alphabet;
  }

  condition(text: TextBatch): Condition {
    return this.stack.condition(text);
  }

  noCondition(): NoCondition {
    return this.stack.noCondition();
  }

  /**
   * i32 [batch, L books], or [1, L books] where all of the batch is alike -> [batch, L books, alphabet]; entries of other books than the
   * slot's have no chance. Without a condition the batch is that of the tokens.
   */
  logits(tokens: Tensor, condition: Condition | NoCondition): Tensor {
    const { books, alphabet } = this.slots;
    const [rows, slots] = tokens.shape as [number, number];
    const embedded = this.codeEmbed.forward(tokens);
    if (books.length === 1) return this.head.forward(this.stack.forward(embedded, condition));
    const positions = slots / books.length;
    const together = sum(reshape(embedded, [rows, positions, books.length, -1]), { axes: 2 });
    const logits = this.head.forward(this.stack.forward(together, condition));
    const batch = logits.shape[0]!;
    const open = this.#ofBooks(() => 0, impossible);
    return reshape(add(reshape(logits, [batch, positions, 1, alphabet]), open), [batch, slots, alphabet]);
  }

  /** For the slot of each book: a number for its own entries, another for those of other books, [books, alphabet]. */
  #ofBooks(own: (size: number) => number, other: number): Tensor {
    const { books, offsets, alphabet } = this.slots;
    const values = books.flatMap((size, book) =>
      Array.from({ length: alphabet }, (_, i) =>
        i >= offsets[book]! && i < offsets[book]! + size ? own(size) : other,
      ),
    );
    return tensor(values, { shape: [books.length, alphabet] });
  }

  /**
   * Cross-entropy on the hidden entries against `(1 - ε) one-hot + ε / entries of its book`, ε = `smoothing` (MaskGIT, arXiv 2202.04200,
   * section 3.1).
   * @returns loss; likelihood: the same without smoothing, nats per code; accuracy on hidden codes
   */
  loss(text: TextBatch, batch: MaskedBatch, smoothing: number): Record<"loss" | "likelihood" | "accuracy", Tensor> {
    const logits = reshape(this.logits(batch.tokens, this.condition(text)), [-1, this.slots.alphabet]);
    const targets = reshape(batch.targets, [-1]);
    const weights = reshape(batch.weights, [-1]);
    const { loss: likelihood } = crossEntropy(logits, targets, weights);
    let loss = likelihood;
    if (smoothing > 0) {
      // -Σ_v log p_v / entries, over the entries of the slot's book.
      const { books, alphabet } = this.slots;
      const share = this.#ofBooks((size) => 1 / size, 0);
      const means = sum(multiply(reshape(logits, [-1, books.length, alphabet]), share), { axes: 2 });
      const spread = subtract(logsumexp(logits), reshape(means, [-1]));
      loss = add(multiply(likelihood, 1 - smoothing), multiply(sum(multiply(spread, weights)), smoothing));
    }
    return { loss, likelihood, accuracy: sum(multiply(equal(argmax(logits), targets), weights)) };
  }
}
