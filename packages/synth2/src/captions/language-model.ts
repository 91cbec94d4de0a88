import { type CausalLM, loadModel, loadTokenizer, type Tokenizer } from "@trefoil/core";
import { SynthError } from "../errors.js";
import { hashModel } from "../models/folder.js";

/** A Hugging Face folder of the Llama family in memory: the caption writer, and the frozen part of a vision-language model. */
export class LanguageModel implements Disposable {
  private constructor(
    readonly path: string,
    readonly model: CausalLM,
    readonly tokenizer: Tokenizer,
    /** SHA-256 of sizes and weights. */
    readonly hash: string,
    /** Begins every text; the end-of-text token where the tokenizer has no beginning. */
    readonly start: number,
    /** Ids that end a text; the first is trained on. */
    readonly ends: readonly [number, ...number[]],
  ) {}

  /**
   * @throws SynthError `SYNTH_VOCABULARY_MISMATCH` when the tokenizer has ids that the model has not, `SYNTH_MODEL` when nothing ends a text
   * @throws ModelFolderError, TokenizerError
   */
  static async open(path: string): Promise<LanguageModel> {
    const { model, config } = await loadModel(path);
    try {
      const tokenizer = await loadTokenizer(path);
      if (tokenizer.vocabSize > config.vocabSize) {
        throw new SynthError(
          "SYNTH_VOCABULARY_MISMATCH",
          `${path}: its tokenizer has ${tokenizer.vocabSize} tokens, its model ${config.vocabSize}; put the right tokenizer.json there`,
        );
      }
      const own = tokenizer.eosTokenId === undefined ? [] : [tokenizer.eosTokenId];
      const [end, ...others] = new Set([...own, ...config.eosTokenIds]);
      if (end === undefined) {
        throw new SynthError(
          "SYNTH_MODEL",
          `${path} has no end-of-text token: captions would never end. Set eos_token in tokenizer_config.json`,
        );
      }
      const hash = await hashLanguageModel(model);
      return new LanguageModel(path, model, tokenizer, hash, tokenizer.bosTokenId ?? end, [end, ...others]);
    } catch (error) {
      model.dispose();
      throw error;
    }
  }

  dispose(): void {
    this.model.dispose();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }
}

/** SHA-256 of what a language model computes. */
export async function hashLanguageModel(model: CausalLM): Promise<string> {
  const { vocabSize, hiddenSize, layers, heads, keyValueHeads, rmsNormEps, ropeTheta, maxPositions } = model.config;
  const sizes = { vocabSize, hiddenSize, layers, heads, keyValueHeads, rmsNormEps, ropeTheta, maxPositions };
  return await hashModel(sizes, model.namedParameters());
}

/** Most tokens of captions in training, end of text included: the rest of a longer one is not learned. */
export interface CaptionRowOptions {
  start: number;
  end: number;
  sequence: number;
}

/**
 * Next-token rows of texts: `tokens` i32 [n, sequence] begin with `start`, `targets` end with `end` (-1 behind it), and `weights` make
 * the loss a mean over all `count` targets of the batch; `cut` texts lost their end.
 */
export function captionRows(texts: readonly Int32Array[], { start, end, sequence }: CaptionRowOptions) {
  const tokens = new Int32Array(texts.length * sequence);
  const targets = new Int32Array(tokens.length).fill(-1);
  let [count, cut] = [0, 0];
  texts.forEach((text, row) => {
    const kept = text.subarray(0, sequence);
    tokens.set([start, ...kept.subarray(0, sequence - 1)], row * sequence);
    targets.set(text.length < sequence ? [...kept, end] : kept, row * sequence);
    count += Math.min(text.length + 1, sequence);
    if (text.length >= sequence) cut++;
  });
  const weights = Float32Array.from(targets, (target) => (target >= 0 ? 1 / count : 0));
  return { tokens, targets, weights, count, cut };
}
