import { SynthError } from "../errors.js";
import { countNgrams, longest, type ScoredPair } from "./ngrams.js";

/** In how many images' references each n-gram stands, and of how many images. */
export interface DocumentFrequencies {
  images: number;
  counts: ReadonlyMap<string, number>;
}

/** σ of the penalty on lengths that differ. */
const sigma = 6;

/** @param references token lists of every image */
export function documentFrequencies(references: Iterable<ScoredPair["references"]>): DocumentFrequencies {
  const counts = new Map<string, number>();
  let images = 0;
  for (const ofImage of references) {
    images++;
    const grams = new Set(ofImage.flatMap((tokens) => countNgrams(tokens).flatMap((each) => [...each.keys()])));
    for (const gram of grams) counts.set(gram, (counts.get(gram) ?? 0) + 1);
  }
  return { images, counts };
}

/** tf-idf vectors by order, their norms, and the length that the penalty compares. */
interface Vectors {
  grams: Map<string, number>[];
  norms: number[];
  /** Number of bigrams. */
  length: number;
}

function vectorise(tokens: readonly string[], { images, counts }: DocumentFrequencies): Vectors {
  const logImages = Math.log(images);
  const grams = countNgrams(tokens).map(
    (each) =>
      new Map([...each].map(([gram, tf]) => [gram, tf * (logImages - Math.log(Math.max(1, counts.get(gram) ?? 0)))])),
  );
  const norms = grams.map((vector) => Math.sqrt([...vector.values()].reduce((sum, value) => sum + value * value, 0)));
  return { grams, norms, length: Math.max(0, tokens.length - 1) };
}

/**
 * CIDEr-D as pycocoevalcap's "CIDEr" (CIDEr: arXiv 1411.5726): n-grams of up to four words, raw counts times idf, clipped cosine,
 * Gaussian length penalty with σ = 6, times 10. Papers print 100 times this.
 * @param frequencies over which images the idf is taken; default: those scored. With one image all idf are 0, and so is the score.
 * @returns score of each image and their mean, in [0, 10]
 * @throws SynthError `SYNTH_DATA` when an image has no reference
 */
export function ciderD(
  pairs: readonly ScoredPair[],
  frequencies = documentFrequencies(pairs.map(({ references }) => references)),
): { mean: number; scores: number[] } {
  const scores = pairs.map(({ hypothesis, references }, image) => {
    if (references.length === 0) throw new SynthError("SYNTH_DATA", `image ${image} has no reference caption`);
    const candidate = vectorise(hypothesis, frequencies);
    let total = 0;
    for (const reference of references) total += similarity(candidate, vectorise(reference, frequencies));
    return (10 * total) / (longest * references.length);
  });
  return { scores, mean: scores.reduce((sum, score) => sum + score, 0) / scores.length };
}

/** Sum over orders of the clipped cosine, times the length penalty. */
function similarity(candidate: Vectors, reference: Vectors): number {
  let sum = 0;
  for (let order = 0; order < longest; order++) {
    let dot = 0;
    for (const [gram, value] of candidate.grams[order]!) {
      const other = reference.grams[order]!.get(gram) ?? 0;
      dot += Math.min(value, other) * other;
    }
    const norm = candidate.norms[order]! * reference.norms[order]!;
    sum += norm === 0 ? dot : dot / norm;
  }
  const delta = candidate.length - reference.length;
  return sum * Math.exp(-(delta * delta) / (2 * sigma * sigma));
}
