import { BpeTokenizer, wordPattern } from "./bpe-tokenizer.js";
import { byteCharacters } from "./byte-alphabet.js";
import { byteLevelBpe } from "./byte-level-bpe.js";
import { TokenizerError } from "./errors.js";
import { Heap } from "./heap.js";
import { parseDefinition } from "./tokenizer-json.js";

export interface BpeTrainingOptions {
  /** Ids in all: special tokens, 256 bytes, merges. At most 65536; fewer when the text has no more pairs to merge. */
  vocabSize: number;
  /** A pair is merged only if it occurs this often. Default 2. */
  minFrequency?: number;
  /** The first ids. Default `<s>` and `</s>`, which are begin and end of text. */
  specialTokens?: readonly string[];
}

/**
 * Learns a byte-level BPE tokenizer (Sennrich et al. 2016, over bytes as in GPT-2): words are split by GPT-2's pattern, then
 * the most frequent pair of neighbours becomes a token, again and again. Ties go to the pair with the smaller ids. Same text
 * and options give the same tokenizer, which is the one that `BpeTrainer` of Hugging Face's `tokenizers` gives.
 * @throws TokenizerError `TOKENIZER_TRAINING`
 */
export async function trainBpe(
  texts: Iterable<string> | AsyncIterable<string>,
  options: BpeTrainingOptions,
): Promise<BpeTokenizer> {
  const { vocabSize, minFrequency = 2, specialTokens = ["<s>", "</s>"] } = options;
  const smallest = 256 + specialTokens.length;
  if (!Number.isInteger(vocabSize) || vocabSize < smallest || vocabSize > maxVocab) {
    throw new TokenizerError(
      "TOKENIZER_TRAINING",
      `vocabSize is ${vocabSize}: choose a whole number from ${smallest} to ${maxVocab}`,
    );
  }
  const words = await countWords(texts);
  if (words.size === 0) throw new TokenizerError("TOKENIZER_TRAINING", "the text to train on is empty");

  const tokens = [...specialTokens, ...[...byteCharacters].sort()];
  const merges = learnMerges(words, tokens, vocabSize, minFrequency);
  const definition = parseDefinition(
    byteLevelBpe({
      tokens,
      merges: merges.map(([left, right]) => `${tokens[left]} ${tokens[right]}`),
      specialTokens: specialTokens.map((content, id) => ({ id, content })),
      splitWords: true,
    }),
    "trained tokenizer",
  );
  const named = (name: string, token: string) => (specialTokens.includes(token) ? { [name]: token } : {});
  return new BpeTokenizer(definition, {
    tokenizer_class: "PreTrainedTokenizerFast",
    ...named("bos_token", "<s>"),
    ...named("eos_token", "</s>"),
    clean_up_tokenization_spaces: false,
    model_max_length: 1_000_000,
  });
}

/** Pairs are keyed `left * maxVocab + right`, which also orders them by id. */
const maxVocab = 65536;

async function countWords(texts: Iterable<string> | AsyncIterable<string>): Promise<Map<string, number>> {
  const words = new Map<string, number>();
  for await (const text of texts) {
    for (const [word] of text.matchAll(wordPattern)) words.set(word, (words.get(word) ?? 0) + 1);
  }
  return words;
}

/** Extends `tokens` up to `vocabSize` and returns the merges in order, as pairs of ids. */
function learnMerges(
  words: ReadonlyMap<string, number>,
  tokens: string[],
  vocabSize: number,
  minFrequency: number,
): [number, number][] {
  const idOf = new Map(tokens.map((token, id) => [token, id]));
  const byteIds = byteCharacters.map((character) => idOf.get(character) as number);
  const symbols: number[][] = [];
  const frequencies: number[] = [];
  for (const [word, frequency] of words) {
    symbols.push(Array.from(Buffer.from(word, "utf8"), (byte) => byteIds[byte] as number));
    frequencies.push(frequency);
  }

  const counts = new Map<number, number>();
  const wordsWith = new Map<number, number[]>(); // may name words that no longer have the pair, and name one twice
  const add = (word: number, sign: 1 | -1, grown?: Set<number>) => {
    const ids = symbols[word] as number[];
    const change = sign * (frequencies[word] as number);
    for (let i = 0; i + 1 < ids.length; i++) {
      const pair = (ids[i] as number) * maxVocab + (ids[i + 1] as number);
      counts.set(pair, (counts.get(pair) ?? 0) + change);
      if (sign < 0) continue;
      grown?.add(pair);
      const list = wordsWith.get(pair);
      if (!list) wordsWith.set(pair, [word]);
      else if (list.at(-1) !== word) list.push(word);
    }
  };
  for (let word = 0; word < symbols.length; word++) add(word, 1);

  type Candidate = { pair: number; count: number };
  const queue = new Heap<Candidate>((a, b) => a.count > b.count || (a.count === b.count && a.pair < b.pair));
  for (const [pair, count] of counts) queue.push({ pair, count });

  const merges: [number, number][] = [];
  while (tokens.length < vocabSize) {
    const best = queue.pop();
    if (!best || best.count < Math.max(1, minFrequency)) break;
    const count = counts.get(best.pair) ?? 0;
    if (count !== best.count) {
      // Growth was queued when it happened; a count that fell since is queued now.
      if (count > 0 && count < best.count) queue.push({ pair: best.pair, count });
      continue;
    }
    const left = Math.floor(best.pair / maxVocab);
    const right = best.pair % maxVocab;
    const token = `${tokens[left]}${tokens[right]}`;
    let id = idOf.get(token); // "abc" may come from "ab" + "c" and from "a" + "bc"
    if (id === undefined) {
      id = tokens.push(token) - 1;
      idOf.set(token, id);
    }
    merges.push([left, right]);
    const grown = new Set<number>();
    for (const word of wordsWith.get(best.pair) ?? []) {
      const merged = mergePair(symbols[word] as number[], left, right, id);
      if (!merged) continue;
      add(word, -1);
      symbols[word] = merged;
      add(word, 1, grown);
    }
    counts.delete(best.pair);
    wordsWith.delete(best.pair);
    for (const pair of grown) {
      const grownCount = counts.get(pair);
      if (grownCount) queue.push({ pair, count: grownCount });
    }
  }
  return merges;
}

/** Replaces the pair from left to right; undefined where it does not occur. */
function mergePair(ids: readonly number[], left: number, right: number, id: number): number[] | undefined {
  let out: number[] | undefined;
  for (let i = 0; i < ids.length; i++) {
    if (ids[i] === left && ids[i + 1] === right) {
      out ??= ids.slice(0, i);
      out.push(id);
      i++;
    } else out?.push(ids[i] as number);
  }
  return out;
}
