import { Choices } from "../world/random.js";
import { tokeniseCaption } from "./tokenise.js";

/** How varied and how balanced a set of captions is, beside a reference set. */
export interface CaptionDiversity {
  captions: number;
  /** Words of a caption, mean. */
  meanLength: number;
  vocabulary: number;
  /** Different words, and different pairs of neighbouring words, per word and per pair. */
  distinct1: number;
  distinct2: number;
  /** Share of captions that an earlier one repeats word by word. */
  duplicates: number;
  /** Share of captions in the 5, 10, 50 fullest clusters of the reference set: lower is more diverse. */
  topClusters: { top5: number; top10: number; top50: number };
  /** Entropy of the captions' clusters, nats: higher is more balanced. */
  clusterEntropy: number;
  /** Jensen-Shannon divergence of the cluster histogram from the reference set's, nats; at most ln 2. */
  divergence: number;
}

export interface ClusterOptions {
  clusters: number;
  seed: number;
  iterations: number;
}

type SparseVector = readonly (readonly [dimension: number, value: number])[];

/**
 * Clusters of captions: spherical k-means (cosine of tf-idf vectors) fitted on a reference set, k-means++ start. The diagnostics of Synth²:
 * how concentrated a set is in the largest clusters, and how balanced.
 */
export class CaptionClusters {
  readonly #dimensions = new Map<string, number>();
  readonly #idf: Float64Array;
  readonly #centres: Float64Array[];
  readonly #reference: readonly number[];

  constructor(reference: readonly string[], { clusters, seed, iterations }: ClusterOptions) {
    const tokens = reference.map(tokeniseCaption);
    const frequencies: number[] = [];
    for (const words of tokens) {
      for (const word of new Set(words)) {
        const dimension = this.#dimensions.get(word) ?? this.#dimensions.size;
        this.#dimensions.set(word, dimension);
        frequencies[dimension] = (frequencies[dimension] ?? 0) + 1;
      }
    }
    this.#idf = Float64Array.from(frequencies, (frequency) => Math.log((1 + tokens.length) / (1 + frequency)) + 1);
    const vectors = tokens.map((words) => this.#vector(words));
    this.#centres = startCentres(vectors, Math.min(clusters, vectors.length), this.#idf.length, new Choices(seed));
    for (let i = 0; i < iterations && this.#refine(vectors); i++);
    this.#reference = histogram(
      vectors.map((vector) => this.#nearest(vector)),
      this.#centres.length,
    );
  }

  /** @throws RangeError without captions */
  measure(captions: readonly string[]): CaptionDiversity {
    if (captions.length === 0) throw new RangeError("no captions to measure");
    const tokens = captions.map(tokeniseCaption);
    const words = tokens.flat();
    const pairs = tokens.flatMap((each) => each.slice(1).map((word, i) => `${each[i]} ${word}`));
    const counts = histogram(
      tokens.map((each) => this.#nearest(this.#vector(each))),
      this.#centres.length,
    );
    const shares = counts.map((count) => count / captions.length);
    const sorted = shares.toSorted((a, b) => b - a);
    const top = (n: number) => sorted.slice(0, n).reduce((sum, share) => sum + share, 0);
    const vocabulary = new Set(words).size;
    return {
      captions: captions.length,
      meanLength: words.length / captions.length,
      vocabulary,
      distinct1: vocabulary / words.length,
      distinct2: new Set(pairs).size / pairs.length,
      duplicates: 1 - new Set(tokens.map((each) => each.join(" "))).size / captions.length,
      topClusters: { top5: top(5), top10: top(10), top50: top(50) },
      clusterEntropy: entropy(shares),
      divergence: jensenShannon(shares, normalise(this.#reference)),
    };
  }

  #vector(words: readonly string[]): SparseVector {
    const counts = new Map<number, number>();
    for (const word of words) {
      const dimension = this.#dimensions.get(word);
      if (dimension !== undefined) counts.set(dimension, (counts.get(dimension) ?? 0) + 1);
    }
    const weighted = [...counts].map(([dimension, count]) => [dimension, count * this.#idf[dimension]!] as const);
    const norm = Math.sqrt(weighted.reduce((sum, [, value]) => sum + value * value, 0)) || 1;
    return weighted.map(([dimension, value]) => [dimension, value / norm] as const);
  }

  /** Cluster of largest cosine; ties: the first. */
  #nearest(vector: SparseVector): number {
    let [best, most] = [0, Number.NEGATIVE_INFINITY];
    this.#centres.forEach((centre, i) => {
      const similarity = dot(vector, centre);
      if (similarity > most) [best, most] = [i, similarity];
    });
    return best;
  }

  /** One step of k-means; false when no centre moved. */
  #refine(vectors: readonly SparseVector[]): boolean {
    const sums = this.#centres.map((centre) => new Float64Array(centre.length));
    for (const vector of vectors) {
      const sum = sums[this.#nearest(vector)]!;
      for (const [dimension, value] of vector) sum[dimension]! += value;
    }
    let moved = false;
    sums.forEach((sum, i) => {
      const norm = Math.sqrt(sum.reduce((total, value) => total + value * value, 0));
      // An empty cluster keeps its centre.
      if (norm === 0) return;
      const centre = this.#centres[i]!;
      for (let d = 0; d < centre.length; d++) {
        const value = sum[d]! / norm;
        if (Math.abs(value - centre[d]!) > 1e-12) moved = true;
        centre[d] = value;
      }
    });
    return moved;
  }
}

/** k-means++ (Arthur and Vassilvitskii 2007) on cosine distance. */
function startCentres(vectors: readonly SparseVector[], k: number, width: number, choices: Choices): Float64Array[] {
  const dense = (vector: SparseVector): Float64Array => {
    const centre = new Float64Array(width);
    for (const [dimension, value] of vector) centre[dimension] = value;
    return centre;
  };
  const centres = [dense(vectors[choices.below(vectors.length)]!)];
  const distances = vectors.map((vector) => Math.max(0, 1 - dot(vector, centres[0]!)));
  while (centres.length < k) {
    const total = distances.reduce((sum, distance) => sum + distance, 0);
    let left = choices.next() * total;
    let chosen = 0;
    while (chosen < vectors.length - 1 && left > distances[chosen]!) left -= distances[chosen++]!;
    const centre = dense(vectors[chosen]!);
    centres.push(centre);
    vectors.forEach((vector, i) => {
      distances[i] = Math.min(distances[i]!, Math.max(0, 1 - dot(vector, centre)));
    });
  }
  return centres;
}

const dot = (vector: SparseVector, centre: Float64Array): number =>
  vector.reduce((sum, [dimension, value]) => sum + value * centre[dimension]!, 0);

function histogram(clusters: readonly number[], size: number): number[] {
  const counts = new Array<number>(size).fill(0);
  for (const cluster of clusters) counts[cluster]!++;
  return counts;
}

function normalise(counts: readonly number[]): number[] {
  const total = counts.reduce((sum, count) => sum + count, 0);
  return counts.map((count) => count / total);
}

/** Nats. */
const entropy = (shares: readonly number[]): number =>
  -shares.reduce((sum, share) => sum + (share > 0 ? share * Math.log(share) : 0), 0);

function jensenShannon(p: readonly number[], q: readonly number[]): number {
  const middle = p.map((share, i) => (share + q[i]!) / 2);
  return entropy(middle) - (entropy(p) + entropy(q)) / 2;
}

/** How the things that captions speak of are spread: attribute combinations, classes. */
export interface Coverage {
  /** Different ones met. */
  distinct: number;
  /** Nats; `effective` = e^entropy says how many equally frequent ones would be as varied. */
  entropy: number;
  effective: number;
  /** Share of mentions that are not in `known`: new against the paired data. */
  novel: number;
}

/** @param mentions one entry per mention, such as "red circle" @param known what the paired data show */
export function coverage(mentions: readonly string[], known: ReadonlySet<string>): Coverage {
  const counts = new Map<string, number>();
  for (const mention of mentions) counts.set(mention, (counts.get(mention) ?? 0) + 1);
  const value = entropy([...counts.values()].map((count) => count / mentions.length));
  return {
    distinct: counts.size,
    entropy: value,
    effective: Math.exp(value),
    novel: mentions.filter((mention) => !known.has(mention)).length / mentions.length,
  };
}
