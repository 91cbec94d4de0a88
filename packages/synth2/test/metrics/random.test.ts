import { readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { bleu, ciderD, rougeL } from "../../src/metrics/index.js";

interface Corpus {
  pairs: { hypothesis: string; references: string[] }[];
  cider: number[];
  bleu: number[];
  rouge: number[];
}

const corpora = readFileSync(new URL("random-corpora.jsonl", import.meta.url), "utf8")
  .trim()
  .split("\n")
  .map((line) => JSON.parse(line) as Corpus);

/** Made by random_corpora.py with the scorers of pycocoevalcap. */
describe("random corpora", () => {
  it.each(corpora.map((corpus, i) => [i, corpus] as const))(
    "%i: equal the scorers of pycocoevalcap to 1e-9",
    (_, corpus) => {
      const words = (text: string) => text.split(" ").filter((word) => word !== "");
      const pairs = corpus.pairs.map(({ hypothesis, references }) => ({
        hypothesis: words(hypothesis),
        references: references.map(words),
      }));
      const error = (a: readonly number[], b: readonly number[]) =>
        Math.max(...a.map((value, i) => Math.abs(value - b[i]!)));
      expect(error(ciderD(pairs).scores, corpus.cider)).toBeLessThan(1e-9);
      expect(error(bleu(pairs), corpus.bleu)).toBeLessThan(1e-9);
      expect(error(rougeL(pairs).scores, corpus.rouge)).toBeLessThan(1e-9);
    },
  );
});
