import { type Tensor, tensor } from "@trefoil/core";
import { captionRows, type LanguageModel } from "../captions/language-model.js";
import type { CaptionTargets } from "./model.js";

/** Captions as the language model is trained on them; `count` of the targets are learned, `cut` captions lost their end. */
export function captionTargets(
  captions: readonly string[],
  { language, maxTextTokens: sequence }: { language: LanguageModel; maxTextTokens: number },
): Record<keyof CaptionTargets, Tensor> & { count: number; cut: number } {
  const { tokenizer, start, ends } = language;
  const rows = captionRows(
    captions.map((caption) => tokenizer.encode(caption)),
    { start, end: ends[0], sequence },
  );
  const shape = [captions.length, sequence];
  return {
    tokens: tensor(rows.tokens, { shape }),
    targets: tensor(rows.targets, { shape }),
    weights: tensor(rows.weights, { shape }),
    count: rows.count,
    cut: rows.cut,
  };
}
