import { describe, expect, it } from "vitest";
import { bleu, ciderD, documentFrequencies, rougeL, tokeniseCaption } from "../../src/metrics/index.js";

const corpus = (...rows: [string, ...string[]][]) =>
  rows.map(([hypothesis, ...references]) => ({
    hypothesis: hypothesis.split(" ").filter(Boolean),
    references: references.map((text) => text.split(" ")),
  }));

/** Made with pycocoevalcap ad63453. */
const corpora = {
  A: {
    pairs: corpus(
      [
        "a red square above a blue circle",
        "a red square is above a blue circle",
        "there is a blue circle below a red square",
      ],
      ["two green triangles", "two green triangles side by side", "a pair of green triangles"],
    ),
    cider: 3.9673599890662388,
    each: [4.9092169673, 3.0255030108],
    bleu: [0.7408182205, 0.6929719918, 0.6189904092, 0.4578000713],
    rouge: 0.7755560998,
  },
  B: {
    pairs: corpus(
      ["a a a a red red square", "a red square"],
      ["", "a blue circle"],
      [
        "small green triangle left of yellow star",
        "a small green triangle left of a yellow star",
        "yellow star right of small green triangle",
      ],
    ),
    cider: 2.3826358577631566,
    each: [2.0833261901, 0, 5.0645813832],
    bleu: [0.7142857142, 0.6454972243, 0.5, 0.4204482076],
  },
  C: {
    pairs: corpus(["a red square", "a red square"]),
    cider: 0,
    each: [0],
    bleu: [0.9999999993, 0.9999999993, 0.9999999991, 0.0316227766],
    rouge: 1,
  },
  D: {
    pairs: corpus(
      ...["a red square on the left", "a blue circle on the right", "a green star in the middle"].map(
        (text): [string, string] => [text, text],
      ),
    ),
    cider: 10,
    each: [10, 10, 10],
    bleu: [0.9999999999, 0.9999999999, 0.9999999999, 0.9999999999],
    rouge: 1,
  },
  E: {
    pairs: corpus(["cat", "cat"], ["dog", "cat"], ["a bird sings", "a bird sings loudly"]),
    cider: 2.7972240794210763,
    each: [2.5, 0, 5.8916722383],
    bleu: [0.6549846022, 0.7322950473, 0.7600423037, 0.0244857607],
    rouge: 0.6118721461,
  },
} as const;

describe.each(Object.entries(corpora))("corpus %s", (_, golden) => {
  const pairs = golden.pairs;

  it("has the golden CIDEr-D", () => {
    const { mean, scores } = ciderD(pairs);
    expect(Math.abs(mean - golden.cider)).toBeLessThan(1e-12);
    // Values of single images are recorded to ten decimals.
    scores.forEach((score, i) => {
      expect(Math.abs(score - golden.each[i]!)).toBeLessThan(1e-10);
    });
  });

  it("has the golden BLEU and ROUGE-L", () => {
    bleu(pairs).forEach((score, i) => {
      expect(Math.abs(score - golden.bleu[i]!)).toBeLessThan(1e-10);
    });
    if ("rouge" in golden) expect(Math.abs(rougeL(pairs).mean - golden.rouge)).toBeLessThan(1e-10);
  });
});

describe("CIDEr-D", () => {
  it("takes idf from another corpus, so that one image can be scored", () => {
    const [first] = corpora.A.pairs;
    const frequencies = documentFrequencies(corpora.A.pairs.map(({ references }) => references));
    expect(ciderD([first!], frequencies).mean).toBeCloseTo(4.9092169673, 9);
    expect(ciderD([first!]).mean).toBe(0);
  });

  it("needs a reference for every image", () => {
    expect(() => ciderD([{ hypothesis: ["cat"], references: [] }])).toThrow(/no reference/);
  });
});

describe("tokens", () => {
  it.each([
    ["A man's dog isn't here.", "a man 's dog is n't here"],
    ["Two T-shirts, 3.5 kg; $5!", "two t-shirts 3.5 kg $ 5"],
    ["He cannot (really) swim -- ...", "he can not -lrb- really -rrb- swim"],
    ["line\nbreak  and\ttabs", "line break and tabs"],
    ["they’re at 7:30", "they 're at 7:30"],
    ["", ""],
    // Marks belong to their letters: decomposed Latin (as macOS names files), Hindi, Thai.
    ["un cafe\u0301 noir", "un cafe\u0301 noir"],
    ["लाल गेंद और नीला तारा", "लाल गेंद और नीला तारा"],
    ["แมวสีดำ บนโต๊ะ", "แมวสีดำ บนโต๊ะ"],
  ])("%j", (caption, tokens) => {
    expect(tokeniseCaption(caption).join(" ")).toBe(tokens);
  });
});
