import { describe, expect, it } from "vitest";
import { CaptionClusters, coverage } from "../../src/metrics/index.js";

const repeat = (texts: string[], counts: number[]) =>
  texts.flatMap((text, i) => new Array<string>(counts[i]!).fill(text));
const topics = ["a dog runs", "blue sky above", "two red apples", "cold winter snow"];

describe("clusters of captions", () => {
  // Topics share no word, so four clusters are exactly the topics.
  const clusters = new CaptionClusters(repeat(topics, [50, 30, 15, 5]), { clusters: 4, seed: 1, iterations: 20 });

  it("give the entropy of a known histogram", () => {
    const { clusterEntropy, topClusters, divergence, duplicates } = clusters.measure(repeat(topics, [1, 1, 1, 1]));
    expect(clusterEntropy).toBeCloseTo(Math.log(4), 12);
    expect(topClusters.top5).toBeCloseTo(1, 12);
    const p = [0.5, 0.3, 0.15, 0.05];
    const kl = (from: number[], to: number[]) =>
      from.reduce((sum, share, i) => sum + share * Math.log(share / to[i]!), 0);
    const middle = p.map((share) => (share + 0.25) / 2);
    expect(divergence).toBeCloseTo(kl(p, middle) / 2 + kl([0.25, 0.25, 0.25, 0.25], middle) / 2, 12);
    expect(duplicates).toBe(0);
  });

  it("of the reference set itself do not diverge", () => {
    const self = clusters.measure(repeat(topics, [50, 30, 15, 5]));
    expect(self.divergence).toBeCloseTo(0, 12);
    expect(self.duplicates).toBeCloseTo(0.96, 12);
    expect(self.distinct1).toBeCloseTo(12 / 300, 12);
    expect(self.distinct2).toBeCloseTo(8 / 200, 12);
    expect(self.meanLength).toBe(3);
  });
});

it("captions of more words than a call may have arguments are clustered", () => {
  const caption = (at: number) => Array.from({ length: 1000 }, (_, i) => `w${at * 1000 + i}`).join(" ");
  const captions = Array.from({ length: 200 }, (_, i) => caption(i));
  const clusters = new CaptionClusters(captions, { clusters: 2, seed: 1, iterations: 2 });
  expect(clusters.measure(captions).vocabulary).toBe(200_000);
});

describe("coverage", () => {
  it("counts what is new and how even it is", () => {
    const result = coverage(["red circle", "red circle", "blue star", "blue star"], new Set(["red circle"]));
    expect(result).toEqual({ distinct: 2, entropy: Math.log(2), effective: expect.closeTo(2, 12), novel: 0.5 });
  });
});
