const wordsOfRun = 13;

/** Runs kept at most; beyond that every second one is forgotten, by its hash, and of documents the same ones are asked. */
const maxRuns = 1 << 21;

/**
 * Tells whether a text is nearly the same as one of some others: by how many of its runs of 13 words stand in them, the measure by which
 * language-model benchmarks are kept out of training text (Brown et al. 2020, arXiv 2005.14165, appendix C). Case and punctuation do not
 * count. A text of fewer words has no such run and is no copy.
 */
export class NearCopies {
  readonly #share: number;
  readonly #runs = new Set<number>();
  /** Only runs whose hash is a multiple of it are looked at. */
  #stride = 1;

  /** @param share of its runs that make a text a copy, above 0 up to 1 */
  constructor(share: number) {
    this.#share = share;
  }

  /** Adds one of the others. */
  add(text: string): void {
    for (const run of runsOf(text)) {
      if (run % this.#stride !== 0) continue;
      this.#runs.add(run);
      if (this.#runs.size > maxRuns) this.#thin();
    }
  }

  isCopy(text: string): boolean {
    let asked = 0;
    let found = 0;
    for (const run of runsOf(text)) {
      if (run % this.#stride !== 0) continue;
      asked++;
      if (this.#runs.has(run)) found++;
    }
    return asked > 0 && found >= this.#share * asked;
  }

  #thin(): void {
    this.#stride *= 2;
    for (const run of this.#runs) if (run % this.#stride !== 0) this.#runs.delete(run);
  }
}

/** A 52-bit hash of each run of words. */
function* runsOf(text: string): Generator<number> {
  const words: number[] = [];
  for (const [word] of text.toLowerCase().matchAll(/[\p{L}\p{N}]+/gu)) {
    words.push(hashOf(word));
    if (words.length > wordsOfRun) words.shift();
    if (words.length < wordsOfRun) continue;
    let [low, high] = [0x811c9dc5, 0x9747b28c];
    for (const each of words) {
      low = Math.imul(low ^ each, 0x01000193);
      high = Math.imul(high ^ (each >>> 7) ^ (each << 11), 0x5bd1e995);
    }
    yield (high >>> 12) * 2 ** 32 + (low >>> 0);
  }
}

/** FNV-1a over UTF-16 units. */
function hashOf(word: string): number {
  let hash = 0x811c9dc5;
  for (let i = 0; i < word.length; i++) hash = Math.imul(hash ^ word.charCodeAt(i), 0x01000193);
  return hash;
}
