import { countNgrams, longest, type ScoredPair } from "./ngrams.js";

/** What pycocoevalcap adds so that nothing divides by 0. */
const [tiny, small] = [1e-15, 1e-9];

/**
 * BLEU-1 to BLEU-4 over a corpus as pycocoevalcap computes them: clipped counts summed over all images, closest reference length (ties:
 * the shorter), geometric mean of the orders so far, brevity penalty.
 */
export function bleu(pairs: readonly ScoredPair[]): [number, number, number, number] {
  const correct = new Array<number>(longest).fill(0);
  const guessed = new Array<number>(longest).fill(0);
  let [hypothesisLength, referenceLength] = [0, 0];
  for (const { hypothesis, references } of pairs) {
    const length = hypothesis.length;
    hypothesisLength += length;
    const [closest] = references
      .map((each) => each.length)
      .sort((a, b) => Math.abs(a - length) - Math.abs(b - length) || a - b);
    referenceLength += closest ?? 0;
    const ofReferences = references.map(countNgrams);
    countNgrams(hypothesis).forEach((counts, order) => {
      guessed[order]! += Math.max(0, length - order);
      for (const [gram, count] of counts) {
        const most = Math.max(0, ...ofReferences.map((each) => each[order]!.get(gram) ?? 0));
        correct[order]! += Math.min(count, most);
      }
    });
  }
  const ratio = (hypothesisLength + tiny) / (referenceLength + small);
  const brevity = ratio < 1 ? Math.exp(1 - 1 / ratio) : 1;
  let product = 1;
  return correct.map((matches, order) => {
    product *= (matches + tiny) / (guessed[order]! + small);
    return product ** (1 / (order + 1)) * brevity;
  }) as [number, number, number, number];
}
