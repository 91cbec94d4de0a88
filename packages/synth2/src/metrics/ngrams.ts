/** Longest n-gram of CIDEr and BLEU. */
export const longest = 4;

/** Counts of all n-grams of up to four words, by length - 1, then by their words joined with spaces. */
export function countNgrams(tokens: readonly string[]): Map<string, number>[] {
  return Array.from({ length: longest }, (_, order) => {
    const counts = new Map<string, number>();
    for (let i = 0; i + order < tokens.length; i++) {
      const gram = tokens.slice(i, i + order + 1).join(" ");
      counts.set(gram, (counts.get(gram) ?? 0) + 1);
    }
    return counts;
  });
}

/** A caption and what people wrote, as tokens. */
export interface ScoredPair {
  hypothesis: readonly string[];
  references: readonly (readonly string[])[];
}
