import { byteCharacters } from "./byte-alphabet.js";
import { byteLevelBpe } from "./byte-level-bpe.js";
import { TokenizerError } from "./errors.js";
import { AddedTokenMatcher } from "./special-tokens.js";
import type { DecodeOptions, EncodeOptions, Tokenizer } from "./tokenizer.js";
import {
  canonicalJson,
  canonicalParts,
  definitionHash,
  parseDefinition,
  type TokenizerConfig,
  type TokenizerDefinition,
} from "./tokenizer-json.js";

const bosTokenId = 256;
const eosTokenId = 257;

const byteDefinition = parseDefinition(
  byteLevelBpe({
    tokens: byteCharacters,
    specialTokens: [
      { id: bosTokenId, content: "<s>" },
      { id: eosTokenId, content: "</s>" },
    ],
  }),
  "byte tokenizer",
);

/** Ids are the text's UTF-8 bytes; `<s>` is 256, `</s>` is 257. `AutoTokenizer` of transformers reads what it saves. */
export class ByteTokenizer implements Tokenizer {
  readonly vocabSize = 258;
  readonly bosTokenId = bosTokenId;
  readonly eosTokenId = eosTokenId;
  readonly padTokenId = undefined;
  readonly definition: TokenizerDefinition = byteDefinition;
  readonly config: TokenizerConfig;
  readonly hash = definitionHash(byteDefinition);
  readonly #specials = new AddedTokenMatcher(byteDefinition, "special");

  /** @param chatTemplate `chat_template` of the configuration */
  constructor(chatTemplate?: unknown) {
    this.config = {
      tokenizer_class: "PreTrainedTokenizerFast",
      bos_token: "<s>",
      eos_token: "</s>",
      clean_up_tokenization_spaces: false,
      model_max_length: 1_000_000,
      ...(chatTemplate !== undefined && { chat_template: chatTemplate }),
    };
  }

  encode(text: string, options: EncodeOptions = {}): Int32Array {
    if (!options.specialTokens) return Int32Array.from(Buffer.from(text, "utf8"));
    const ids: number[] = [];
    for (const piece of this.#specials.split(text)) {
      if (typeof piece === "number") ids.push(piece);
      else for (const byte of Buffer.from(piece, "utf8")) ids.push(byte);
    }
    return Int32Array.from(ids);
  }

  decode(ids: Iterable<number>, options: DecodeOptions = {}): string {
    const bytes: number[] = [];
    for (const id of ids) {
      if (id >= 0 && id < 256) bytes.push(id);
      else if (id !== bosTokenId && id !== eosTokenId) {
        throw new TokenizerError("TOKENIZER_UNKNOWN_ID", `there is no token ${id}: ids are 0 to ${this.vocabSize - 1}`);
      } else if (options.specialTokens) bytes.push(...Buffer.from(id === bosTokenId ? "<s>" : "</s>"));
    }
    return Buffer.from(bytes).toString("utf8");
  }

  byteLengths(): Int32Array {
    return new Int32Array(258).fill(1, 0, 256);
  }
}

/** Whether a `tokenizer.json` gives the same ids as `ByteTokenizer`. */
export function isByteTokenizer(definition: TokenizerDefinition): boolean {
  const { vocab, merges, preTokenizer, normalizer, postProcessor } = canonicalParts(definition);
  const own = canonicalParts(byteDefinition);
  return (
    merges.length === 0 &&
    normalizer === null &&
    postProcessor === null &&
    preTokenizer?.type === "ByteLevel" &&
    preTokenizer.add_prefix_space === false &&
    canonicalJson(vocab) === canonicalJson(own.vocab)
  );
}
