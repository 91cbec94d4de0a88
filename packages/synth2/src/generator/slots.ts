/**
 * Codes of a tokenizer with several codebooks, taken apart: a position has one slot for each book, and entries of a book are numbered
 * behind those of the books before it, so that all slots share one alphabet and one mask token (its size).
 */
export interface Slots {
  /** Sizes of the books. */
  readonly books: readonly number[];
  /** Where the entries of each book begin. */
  readonly offsets: readonly number[];
  /** Entries of all books. */
  readonly alphabet: number;
}

export function slotsOf(books: readonly number[]): Slots {
  const offsets: number[] = [];
  let alphabet = 0;
  for (const size of books) {
    offsets.push(alphabet);
    alphabet += size;
  }
  return { books, offsets, alphabet };
}

/** Codes `[positions]` to tokens `[positions, books]`; codes below 0 (unknown) become the mask token. */
export function splitCodes(codes: Int32Array, { books, offsets, alphabet }: Slots): Int32Array<ArrayBuffer> {
  const tokens = new Int32Array(codes.length * books.length).fill(alphabet);
  for (let i = 0; i < codes.length; i++) {
    let rest = codes[i]!;
    if (rest < 0) continue;
    for (let book = books.length - 1; book >= 0; book--) {
      const size = books[book]!;
      tokens[i * books.length + book] = offsets[book]! + (rest % size);
      rest = Math.floor(rest / size);
    }
  }
  return tokens;
}

/** Tokens `[positions, books]` to codes `[positions]`; `unknown` where a token of the position is hidden. */
export function joinTokens(
  tokens: Int32Array,
  { books, offsets, alphabet }: Slots,
  unknown = -1,
): Int32Array<ArrayBuffer> {
  const codes = new Int32Array(tokens.length / books.length);
  for (let i = 0; i < codes.length; i++) {
    let code = 0;
    for (let book = 0; book < books.length && code >= 0; book++) {
      const token = tokens[i * books.length + book]!;
      code = token === alphabet ? -1 : code * books[book]! + token - offsets[book]!;
    }
    codes[i] = code < 0 ? unknown : code;
  }
  return codes;
}
