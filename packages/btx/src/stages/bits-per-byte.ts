import {
  type CausalLM,
  compile,
  evaluationBatches,
  sum,
  type Tensor,
  type TokenBatch,
  type TokenFile,
  type Tokenizer,
  tensor,
} from "@trefoil/core";
import { StageError } from "./errors.js";

/** Which held-out text is evaluated. */
export interface WindowOptions {
  /** Rows evaluated at a time. */
  batch: number;
  /** Tokens of a window; each token is predicted from those before it in its window. */
  sequence: number;
  /** Windows of each domain, spread evenly over its held-out text. */
  windows: number;
}

export const windowBatches = (file: TokenFile, { batch, sequence, windows }: WindowOptions): Iterable<TokenBatch> =>
  evaluationBatches(file, { batch, sequence, maxWindows: windows });

/** Measures one model on any number of texts, with one compiled program. */
export class BitsPerByte {
  readonly #byteLengths: Int32Array;
  readonly #nats;

  /** @throws StageError when the tokenizer is not byte-level */
  constructor(model: CausalLM, tokenizer: Tokenizer) {
    const lengths = tokenizer.byteLengths();
    if (!lengths)
      throw new StageError(
        "BTX_TOKENIZER",
        "bits per byte need a byte-level tokenizer: the model's does not say what bytes its tokens stand for",
      );
    this.#byteLengths = lengths;
    this.#nats = compile((tokens: Tensor, targets: Tensor) => sum(model.loss(tokens, targets).nll));
  }

  /**
   * Negative log-likelihood of held-out text in bits, per UTF-8 byte of it. Ends of text cost bits and have no bytes.
   */
  async of(file: TokenFile, options: WindowOptions, signal?: AbortSignal): Promise<number> {
    let nats = 0;
    let bytes = 0;
    for (const { tokens, targets, batch, sequence } of windowBatches(file, options)) {
      signal?.throwIfAborted();
      const shape = [batch, sequence];
      nats += await (await this.#nats(tensor(tokens, { shape }), tensor(targets, { shape }))).item();
      for (const target of targets) if (target >= 0) bytes += this.#byteLengths[target]!;
    }
    return nats / Math.LN2 / bytes;
  }
}
