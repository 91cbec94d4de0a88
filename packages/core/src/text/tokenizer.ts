import type { TokenizerConfig, TokenizerDefinition } from "./tokenizer-json.js";

export interface EncodeOptions {
  /**
   * Whether special tokens written out in the text, such as `</s>`, become their ids. Default false: text is text, so that a
   * document cannot smuggle in an end-of-text.
   */
  specialTokens?: boolean;
}

export interface DecodeOptions {
  /** Whether special tokens appear in the text. Default false: they are left out. */
  specialTokens?: boolean;
}

/** Text to token ids and back. Neither adds begin or end tokens. */
export interface Tokenizer {
  /** Ids are below this. */
  readonly vocabSize: number;
  readonly bosTokenId: number | undefined;
  readonly eosTokenId: number | undefined;
  readonly padTokenId: number | undefined;
  /** SHA-256 of what decides the ids: equal exactly for tokenizers that encode alike. */
  readonly hash: string;
  /** The tokenizer's `tokenizer.json` and `tokenizer_config.json`. */
  readonly definition: TokenizerDefinition;
  readonly config: TokenizerConfig;
  encode(text: string, options?: EncodeOptions): Int32Array;
  /** @throws TokenizerError `TOKENIZER_UNKNOWN_ID` */
  decode(ids: Iterable<number>, options?: DecodeOptions): string;
  /** UTF-8 bytes that each id stands for, for bits per byte; special tokens have none. Undefined when not byte-level. */
  byteLengths(): Int32Array | undefined;
}
