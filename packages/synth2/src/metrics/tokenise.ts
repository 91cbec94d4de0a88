/** Tokens that the caption benchmarks drop. Brackets are not among them: lower-casing turns -LRB- into -lrb-, which their list misses. */
const dropped = new Set(["''", "'", "``", "`", ".", "?", "!", ",", ":", "-", "--", "...", ";"]);

const brackets: Readonly<Record<string, string>> = {
  "(": "-lrb-",
  ")": "-rrb-",
  "[": "-lsb-",
  "]": "-rsb-",
  "{": "-lcb-",
  "}": "-rcb-",
};

/** Words that the Penn Treebank splits in two, and where. */
const split: Readonly<Record<string, number>> = {
  cannot: 3,
  gonna: 3,
  gotta: 3,
  wanna: 3,
  gimme: 3,
  lemme: 3,
};

// Numbers keep their points and commas, words their hyphens and inner points (u.s., 3.5, t-shirt) and the marks that many scripts put
// on letters; the rest is one sign at a time.
const pattern =
  /\.{3}|--+|\d+(?:[.,:/]\d+)*(?:st|nd|rd|th|s)?|(?:\p{L}\.){2,}|[\p{L}\p{M}\p{N}_]+(?:[-'’&/][\p{L}\p{M}\p{N}_]+)*|''|``|\S/gu;
const clitic = /^(.+?)(n['’]t|['’](?:s|re|ve|ll|d|m))$/u;

/**
 * Tokens of a caption as caption metrics count them: Penn Treebank style, lower case, without punctuation. Follows what pycocoevalcap
 * gets from its PTBTokenizer on captions (words, numbers, clitics, hyphens, punctuation); not a copy of that tokenizer's every rule.
 */
export function tokeniseCaption(caption: string): string[] {
  const tokens: string[] = [];
  for (const [word] of caption.toLowerCase().replaceAll("\n", " ").matchAll(pattern)) {
    const bracket = brackets[word];
    if (bracket) tokens.push(bracket);
    else if (!dropped.has(word)) tokens.push(...splitWord(word));
  }
  return tokens;
}

function splitWord(word: string): string[] {
  if (/^--+$/.test(word)) return [];
  const at = split[word];
  if (at !== undefined) return [word.slice(0, at), word.slice(at)];
  const [, stem, tail] = clitic.exec(word) ?? [];
  return stem && tail ? [stem, tail.replace("’", "'")] : [word];
}
