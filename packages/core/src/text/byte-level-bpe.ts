/** What tells one byte-level BPE tokenizer from another. */
export interface ByteLevelBpe {
  /** By id; bytes are written as GPT-2's characters. */
  tokens: readonly string[];
  /** `left right`, the first first. Default none. */
  merges?: readonly string[];
  specialTokens: readonly { id: number; content: string }[];
  /** Split text into words by GPT-2's pattern, which no token crosses. Default false. */
  splitWords?: boolean;
}

/** A byte-level BPE tokenizer as `tokenizer.json` of Hugging Face's `tokenizers` defines it. */
export function byteLevelBpe({ tokens, merges = [], specialTokens, splitWords = false }: ByteLevelBpe): object {
  const byteLevel = { type: "ByteLevel", add_prefix_space: false, trim_offsets: true, use_regex: splitWords };
  return {
    version: "1.0",
    truncation: null,
    padding: null,
    added_tokens: specialTokens.map(({ id, content }) => ({
      id,
      content,
      single_word: false,
      lstrip: false,
      rstrip: false,
      normalized: false,
      special: true,
    })),
    normalizer: null,
    pre_tokenizer: byteLevel,
    post_processor: null,
    decoder: { ...byteLevel },
    model: {
      type: "BPE",
      dropout: null,
      unk_token: null,
      continuing_subword_prefix: null,
      end_of_word_suffix: null,
      fuse_unk: false,
      byte_fallback: false,
      ignore_merges: false,
      vocab: Object.fromEntries(tokens.map((token, id) => [token, id])),
      merges,
    },
  };
}
