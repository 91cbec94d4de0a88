import type { ScoredPair } from "./ngrams.js";

/** Weight of recall. */
const beta = 1.2;

/** ROUGE-L as pycocoevalcap: best precision and best recall over the references, each on its own, F with β = 1.2; mean over images. */
export function rougeL(pairs: readonly ScoredPair[]): { mean: number; scores: number[] } {
  const scores = pairs.map(({ hypothesis, references }) => {
    let [precision, recall] = [0, 0];
    for (const reference of references) {
      const common = commonSubsequence(hypothesis, reference);
      precision = Math.max(precision, common / hypothesis.length || 0);
      recall = Math.max(recall, common / reference.length || 0);
    }
    if (precision === 0 || recall === 0) return 0;
    return ((1 + beta ** 2) * precision * recall) / (recall + beta ** 2 * precision);
  });
  return { scores, mean: scores.reduce((sum, score) => sum + score, 0) / scores.length };
}

/** Length of the longest common subsequence. */
function commonSubsequence(a: readonly string[], b: readonly string[]): number {
  let row = new Int32Array(b.length + 1);
  for (const word of a) {
    const next = new Int32Array(b.length + 1);
    for (let j = 1; j <= b.length; j++) {
      next[j] = word === b[j - 1] ? row[j - 1]! + 1 : Math.max(row[j]!, next[j - 1]!);
    }
    row = next;
  }
  return row[b.length]!;
}
