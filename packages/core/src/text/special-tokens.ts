import type { TokenizerDefinition } from "./tokenizer-json.js";

/** Finds added tokens written out in text: the leftmost, and of those that start there the longest. */
export class AddedTokenMatcher {
  readonly #ids: ReadonlyMap<string, number>;
  readonly #pattern: RegExp | undefined;

  /** @param which all added tokens, or only the special ones */
  constructor(definition: TokenizerDefinition, which: "all" | "special") {
    const tokens = definition.added_tokens.filter(({ special }) => which === "all" || special);
    this.#ids = new Map(tokens.map(({ content, id }) => [content, id]));
    const contents = [...this.#ids.keys()].sort((a, b) => b.length - a.length);
    if (contents.length > 0) this.#pattern = new RegExp(contents.map(escapePattern).join("|"), "gu");
  }

  /** The pieces of `text` in order: plain text, or an added token's id. Empty text is left out. */
  *split(text: string): Generator<string | number> {
    let start = 0;
    for (const match of this.#pattern ? text.matchAll(this.#pattern) : []) {
      if (match.index > start) yield text.slice(start, match.index);
      yield this.#ids.get(match[0]) as number;
      start = match.index + match[0].length;
    }
    if (start < text.length) yield text.slice(start);
  }

  /** The pieces of `text`, cut inside every added token written out in it: none of them contains one. */
  *cut(text: string): Generator<string> {
    let start = 0;
    for (;;) {
      if (this.#pattern) this.#pattern.lastIndex = start;
      const match = this.#pattern?.exec(text);
      if (!match) break;
      // Searching goes on right behind the cut: a second token may overlap the first.
      const end = match.index + ((match[0].codePointAt(0) as number) > 0xffff ? 2 : 1);
      yield text.slice(start, end);
      start = end;
    }
    if (start < text.length) yield text.slice(start);
  }
}

function escapePattern(literal: string): string {
  return literal.replace(/[\\^$.*+?()[\]{}|/]/g, "\\$&");
}
