import { Tokenizer as HuggingFace } from "@huggingface/tokenizers";
import { tokenBytes } from "./byte-alphabet.js";
import { TokenizerError } from "./errors.js";
import { AddedTokenMatcher } from "./special-tokens.js";
import type { DecodeOptions, EncodeOptions, Tokenizer } from "./tokenizer.js";
import {
  definitionHash,
  specialTokenId,
  type TokenizerConfig,
  type TokenizerDefinition,
  vocabEntries,
  vocabSizeOf,
} from "./tokenizer-json.js";

/** Any `tokenizer.json`, through `@huggingface/tokenizers`. */
export class HuggingFaceTokenizer implements Tokenizer {
  readonly vocabSize: number;
  readonly bosTokenId: number | undefined;
  readonly eosTokenId: number | undefined;
  readonly padTokenId: number | undefined;
  readonly hash: string;
  readonly #tokenizer: HuggingFace;
  readonly #specials: AddedTokenMatcher;

  /** @throws TokenizerError `TOKENIZER_INVALID` when the library refuses the definition */
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
    try {
      this.#tokenizer = new HuggingFace(definition, config);
    } catch (cause) {
      throw new TokenizerError("TOKENIZER_INVALID", `tokenizer.json cannot be used: ${String(cause)}`, { cause });
    }
  }

  /**
   * The library always recognises special tokens. Without `specialTokens`, a special token written out in the text is
   * therefore encoded in two parts.
   */
  encode(text: string, options: EncodeOptions = {}): Int32Array {
    const pieces = options.specialTokens ? [text] : [...this.#specials.cut(text)];
    const encoded = pieces.map((piece) => this.#tokenizer.encode(piece, { add_special_tokens: false }).ids);
    return Int32Array.from(encoded.length === 1 ? (encoded[0] as number[]) : encoded.flat());
  }

  decode(ids: Iterable<number>, options: DecodeOptions = {}): string {
    const list = [...ids];
    const unknown = list.find((id) => !Number.isInteger(id) || id < 0 || id >= this.vocabSize);
    if (unknown !== undefined) {
      throw new TokenizerError(
        "TOKENIZER_UNKNOWN_ID",
        `there is no token ${unknown}: ids are 0 to ${this.vocabSize - 1}`,
      );
    }
    if (list.length === 0) return "";
    return this.#tokenizer.decode(list, {
      skip_special_tokens: !options.specialTokens,
      clean_up_tokenization_spaces: false,
    });
  }

  byteLengths(): Int32Array | undefined {
    if (this.definition.decoder?.type !== "ByteLevel") return undefined;
    const lengths = new Int32Array(this.vocabSize);
    for (const [token, id] of vocabEntries(this.definition))
      lengths[id] = tokenBytes(token)?.length ?? Buffer.byteLength(token);
    for (const { id, special } of this.definition.added_tokens) if (special) lengths[id] = 0;
    return lengths;
  }
}
