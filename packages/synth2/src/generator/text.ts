import { type Tensor, type Tokenizer, tensor, zeros } from "@trefoil/core";
import { SynthError } from "../errors.js";
import type { TextBatch } from "./text-encoder.js";

/** A caption in tokens of the generator's vocabulary. An empty caption is no condition at all. */
export type CaptionTokens = Int32Array;

/** @throws SynthError `SYNTH_DATA` where the caption is longer than the generator reads */
export function encodeCaption(caption: string, tokenizer: Tokenizer, maxTokens: number): CaptionTokens {
  // Far longer texts are not worth a tokenizer's time: a token has 32 bytes at most in practice.
  const tokens = caption.length > 64 * maxTokens ? undefined : tokenizer.encode(caption);
  if (!tokens || tokens.length > maxTokens) {
    throw new SynthError(
      "SYNTH_DATA",
      `the caption "${caption.slice(0, 60)}${caption.length > 60 ? "…" : ""}" is longer than the ${maxTokens} tokens that the generator reads: shorten it, or train one with more, model.maxTextTokens`,
    );
  }
  return tokens;
}

/** A batch of so many captions, to know what it takes. */
export const emptyTextBatch = (captions: number, maxTokens: number): Record<keyof TextBatch, Tensor> => ({
  tokens: zeros([captions, maxTokens], "i32"),
  lengths: zeros([captions], "i32"),
  kept: zeros([captions]),
});

/** A batch of captions; `kept` 0 drops the condition of a row, and an empty caption has none anyway. */
export function textBatch(
  captions: readonly CaptionTokens[],
  maxTokens: number,
  kept?: Float32Array,
): Record<keyof TextBatch, Tensor> {
  const tokens = new Int32Array(captions.length * maxTokens);
  const lengths = new Int32Array(captions.length).fill(1);
  const keep = new Float32Array(captions.length);
  captions.forEach((caption, row) => {
    tokens.set(caption, row * maxTokens);
    if (caption.length === 0 || (kept?.[row] ?? 1) === 0) return;
    lengths[row] = caption.length;
    keep[row] = 1;
  });
  const shape = [captions.length, maxTokens];
  return { tokens: tensor(tokens, { shape }), lengths: tensor(lengths), kept: tensor(keep) };
}
