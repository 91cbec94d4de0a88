import { tokenBytes } from "./byte-alphabet.js";
import { TokenizerError } from "./errors.js";
import { Heap } from "./heap.js";
import { AddedTokenMatcher } from "./special-tokens.js";
import type { DecodeOptions, EncodeOptions, Tokenizer } from "./tokenizer.js";
import {
  canonicalParts,
  definitionHash,
  mergePairs,
  specialTokenId,
  type TokenizerConfig,
  type TokenizerDefinition,
  vocabEntries,
  vocabSizeOf,
} from "./tokenizer-json.js";

/** GPT-2's split of text into words; `\p{White_Space}` is what `\s` means in the Rust library, unlike in JavaScript. */
export const wordPattern =
  /'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\p{White_Space}\p{L}\p{N}]+|\p{White_Space}+(?!\P{White_Space})|\p{White_Space}+/gu;

/** Words whose ids are remembered. */
const cacheLimit = 1 << 16;

/** Byte-level BPE with GPT-2's word split: what `trainBpe` makes, and the same structure from elsewhere. */
export class BpeTokenizer implements Tokenizer {
  readonly vocabSize: number;
  readonly bosTokenId: number | undefined;
  readonly eosTokenId: number | undefined;
  readonly padTokenId: number | undefined;
  readonly hash: string;
  readonly #specials: AddedTokenMatcher;
  readonly #specialText = new Map<number, string>();
  /** Bytes of each id; undefined for ids without a token and for special tokens. */
  readonly #bytes: (Uint8Array | undefined)[] = [];
  readonly #byteIds: readonly number[];
  /** Of each pair `left * vocabSize + right`: rank and merged id. */
  readonly #merges = new Map<number, { rank: number; id: number }>();
  readonly #cache = new Map<string, readonly number[]>();

  /** @param definition one that `isByteLevelBpe` accepts */
  constructor(
    readonly definition: TokenizerDefinition,
    readonly config: TokenizerConfig,
  ) {
    this.vocabSize = vocabSizeOf(definition);
    this.bosTokenId = specialTokenId(definition, config, "bos_token");
    this.eosTokenId = specialTokenId(definition, config, "eos_token");
    this.padTokenId = specialTokenId(definition, config, "pad_token");
    this.hash = definitionHash(definition);
    this.#specials = new AddedTokenMatcher(definition, "special");
    for (const { id, content } of definition.added_tokens) this.#specialText.set(id, content);
    const ids = vocabEntries(definition);
    const byteIds: number[] = [];
    for (const [token, id] of ids) {
      if (this.#specialText.has(id)) continue;
      const bytes = tokenBytes(token);
      this.#bytes[id] = bytes;
      if (bytes?.length === 1) byteIds[bytes[0] as number] = id;
    }
    this.#byteIds = byteIds;
    for (const [rank, [left, right]] of mergePairs(definition).entries()) {
      const [a, b, merged] = [ids.get(left), ids.get(right), ids.get(left + right)];
      if (a === undefined || b === undefined || merged === undefined) {
        throw new TokenizerError(
          "TOKENIZER_INVALID",
          `merge ${rank}, "${left} ${right}", names a token that the vocabulary lacks`,
        );
      }
      // Of a pair that is listed twice the later rank counts, as in Hugging Face's tokenizers.
      this.#merges.set(a * this.vocabSize + b, { rank, id: merged });
    }
  }

  encode(text: string, options: EncodeOptions = {}): Int32Array {
    const ids: number[] = [];
    for (const piece of options.specialTokens ? this.#specials.split(text) : [text]) {
      if (typeof piece === "number") {
        ids.push(piece);
        continue;
      }
      for (const [word] of piece.matchAll(wordPattern)) for (const id of this.#encodeWord(word)) ids.push(id);
    }
    return Int32Array.from(ids);
  }

  decode(ids: Iterable<number>, options: DecodeOptions = {}): string {
    const pieces: Uint8Array[] = [];
    for (const id of ids) {
      const bytes = this.#bytes[id];
      if (bytes) {
        pieces.push(bytes);
        continue;
      }
      const special = this.#specialText.get(id);
      if (special === undefined) {
        throw new TokenizerError("TOKENIZER_UNKNOWN_ID", `there is no token ${id}: ids are 0 to ${this.vocabSize - 1}`);
      }
      if (options.specialTokens) pieces.push(Buffer.from(special));
    }
    return Buffer.concat(pieces).toString("utf8");
  }

  byteLengths(): Int32Array {
    return Int32Array.from({ length: this.vocabSize }, (_, id) => this.#bytes[id]?.length ?? 0);
  }

  #encodeWord(word: string): readonly number[] {
    const known = this.#cache.get(word);
    if (known) return known;
    const ids = this.#merge(Array.from(Buffer.from(word, "utf8"), (byte) => this.#byteIds[byte] as number));
    if (this.#cache.size >= cacheLimit) this.#cache.clear();
    this.#cache.set(word, ids);
    return ids;
  }

  /** Merges the pair of lowest rank, the leftmost of equals, until none is left. O(n log n): a word may be a whole file. */
  #merge(symbols: number[]): readonly number[] {
    const n = symbols.length;
    if (n < 2) return symbols;
    const next = Int32Array.from({ length: n }, (_, i) => (i + 1 < n ? i + 1 : -1));
    const previous = Int32Array.from({ length: n }, (_, i) => i - 1);
    type Candidate = { at: number; left: number; right: number; rank: number; id: number };
    const queue = new Heap<Candidate>((a, b) => a.rank < b.rank || (a.rank === b.rank && a.at < b.at));
    const consider = (at: number) => {
      const after = at < 0 ? -1 : (next[at] as number);
      if (after < 0) return;
      const [left, right] = [symbols[at] as number, symbols[after] as number];
      const merge = this.#merges.get(left * this.vocabSize + right);
      if (merge) queue.push({ at, left, right, rank: merge.rank, id: merge.id });
    };
    for (let i = 0; i + 1 < n; i++) consider(i);
    for (let best = queue.pop(); best; best = queue.pop()) {
      const { at, left, right, id } = best;
      const after = next[at] as number;
      // A neighbour was merged since this pair was queued; -1 marks a symbol that is gone.
      if (symbols[at] !== left || after < 0 || symbols[after] !== right) continue;
      symbols[at] = id;
      symbols[after] = -1;
      const beyond = next[after] as number;
      next[at] = beyond;
      if (beyond >= 0) previous[beyond] = at;
      consider(previous[at] as number);
      consider(at);
    }
    return symbols.filter((id) => id >= 0);
  }
}

/** Whether a `tokenizer.json` is byte-level BPE with GPT-2's word split and nothing else, so that `BpeTokenizer` reads it. */
export function isByteLevelBpe(definition: TokenizerDefinition): boolean {
  const { model, vocab, normalizer, preTokenizer, postProcessor, decoder, addedTokens } = canonicalParts(definition);
  const bytes = new Set(
    Object.keys(vocab).flatMap((token) => (token.length === 1 ? (tokenBytes(token)?.[0] ?? []) : [])),
  );
  return (
    model.type === "BPE" &&
    Object.keys(model).every((key) => key === "type" || key === "fuse_unk") &&
    bytes.size === 256 &&
    normalizer === null &&
    preTokenizer?.type === "ByteLevel" &&
    preTokenizer.add_prefix_space === false &&
    preTokenizer.use_regex !== false &&
    (postProcessor === null || postProcessor.type === "ByteLevel") &&
    decoder?.type === "ByteLevel" &&
    addedTokens.every(({ special, lstrip, rstrip, single_word }) => special && !lstrip && !rstrip && !single_word)
  );
}
