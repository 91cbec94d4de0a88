import type { DecodeOptions, Tokenizer } from "./tokenizer.js";

/**
 * The text of tokens as they are generated, in pieces: together they are what `decode` gives for all of them, and none ends inside a
 * character whose bytes are several tokens.
 *
 * @example
 * const text = new StreamDecoder(tokenizer);
 * await generate(model, [prompt], { maxNewTokens: 100, onToken: (_row, token) => response.write(text.push(token)) });
 * response.end(text.end());
 */
export class StreamDecoder {
  readonly #decode: (ids: readonly number[]) => string;
  // Tokens whose text is out, kept because the text of a token may depend on the one before, and those that are still to come.
  #before: number[] = [];
  #pending: number[] = [];

  constructor(tokenizer: Pick<Tokenizer, "decode">, options: DecodeOptions = {}) {
    this.#decode = (ids) => tokenizer.decode(ids, options);
  }

  /** The text that `token` completes; empty inside a character. */
  push(token: number): string {
    this.#pending.push(token);
    const text = this.#rest();
    if (text === "" || text.endsWith("\uFFFD")) return "";
    this.#before = this.#pending;
    this.#pending = [];
    return text;
  }

  /** What is left, also where it is no whole character. */
  end(): string {
    const text = this.#rest();
    this.#before = [];
    this.#pending = [];
    return text;
  }

  #rest(): string {
    return this.#decode([...this.#before, ...this.#pending]).slice(this.#decode(this.#before).length);
  }
}
