import { bleu } from "./bleu.js";
import { ciderD, type DocumentFrequencies } from "./cider.js";
import { rougeL } from "./rouge.js";
import { tokeniseCaption } from "./tokenise.js";

export interface CaptionScores {
  /** CIDEr-D, in [0, 10]; papers print 100 times this. */
  cider: number;
  ciderOfImage: number[];
  /** BLEU-1 to BLEU-4. */
  bleu: [number, number, number, number];
  rougeL: number;
}

/**
 * Scores captions against what people wrote, all three metrics on the same tokens.
 * @param frequencies of a fixed corpus, to compare single images or subsets; default: of the images scored
 */
export function scoreCaptions(
  pairs: readonly { caption: string; references: readonly string[] }[],
  frequencies?: DocumentFrequencies,
): CaptionScores {
  const tokens = pairs.map(({ caption, references }) => ({
    hypothesis: tokeniseCaption(caption),
    references: references.map(tokeniseCaption),
  }));
  const { mean, scores } = frequencies ? ciderD(tokens, frequencies) : ciderD(tokens);
  return { cider: mean, ciderOfImage: scores, bleu: bleu(tokens), rougeL: rougeL(tokens).mean };
}
