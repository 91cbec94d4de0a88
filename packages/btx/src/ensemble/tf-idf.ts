/** A sparse vector: value by term number. */
export type SparseVector = ReadonlyMap<number, number>;

/** Words, numbers as one term, and punctuation, which tells code from prose. */
const termPattern = /\p{L}[\p{L}_]*|\d+|[^\s\p{L}\d]/gu;

const termsOf = (text: string): string[] =>
  (text.toLowerCase().match(termPattern) ?? []).map((term) => (/^\d/.test(term) ? "0" : term));

/**
 * Term frequency times inverse document frequency, `idf = ln((1 + n) / (1 + df)) + 1`, vectors of length 1; and the mean vector of
 * each group of documents, by which Branch-Train-Merge chooses models (arXiv 2403.07816, §4.1.2; arXiv 2303.14177).
 */
export class TfIdf {
  readonly #terms = new Map<string, number>();
  readonly #idf: Float64Array;
  readonly #centres: readonly SparseVector[];
  readonly #squaredNorms: readonly number[];

  /** @param groups documents of each model's training text */
  constructor(groups: readonly (readonly string[])[]) {
    const documents = groups.flat();
    const frequencies: number[] = [];
    for (const document of documents) {
      for (const term of new Set(termsOf(document))) {
        const index = this.#terms.get(term) ?? this.#terms.size;
        this.#terms.set(term, index);
        frequencies[index] = (frequencies[index] ?? 0) + 1;
      }
    }
    this.#idf = Float64Array.from(frequencies, (found) => Math.log((1 + documents.length) / (1 + found)) + 1);
    this.#centres = groups.map((group) => {
      const centre = new Map<number, number>();
      for (const document of group)
        for (const [term, value] of this.vector(document))
          centre.set(term, (centre.get(term) ?? 0) + value / group.length);
      return centre;
    });
    this.#squaredNorms = this.#centres.map((centre) => dot(centre, centre));
  }

  /** Of length 1; empty where the text has no known term. */
  vector(text: string): SparseVector {
    const counts = new Map<number, number>();
    for (const term of termsOf(text)) {
      const index = this.#terms.get(term);
      if (index !== undefined) counts.set(index, (counts.get(index) ?? 0) + 1);
    }
    for (const [index, count] of counts) counts.set(index, count * this.#idf[index]!);
    const norm = Math.sqrt(dot(counts, counts));
    for (const [index, value] of counts) counts.set(index, value / norm);
    return counts;
  }

  /** Cosine of the angle between a text and each centre. */
  cosines(text: string): number[] {
    const vector = this.vector(text);
    return this.#centres.map((centre, j) => dot(vector, centre) / (Math.sqrt(this.#squaredNorms[j]!) || 1));
  }

  /** Squared distance of a text from each centre. */
  squaredDistances(text: string): number[] {
    const vector = this.vector(text);
    const own = dot(vector, vector);
    return this.#centres.map((centre, j) => own + this.#squaredNorms[j]! - 2 * dot(vector, centre));
  }
}

function dot(a: SparseVector, b: SparseVector): number {
  let sum = 0;
  for (const [term, value] of a) sum += value * (b.get(term) ?? 0);
  return sum;
}
