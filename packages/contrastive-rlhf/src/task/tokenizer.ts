import { makeTokenizer, type Tokenizer } from "@trefoil/core";
import { letters, separator } from "./gold.js";

/** A token for each symbol of the task, and two that begin and end texts: small policies need not learn which bytes never occur. */
export function taskTokenizer(): Tokenizer {
  const symbols = [...letters, separator];
  const byteLevel = { type: "ByteLevel", add_prefix_space: false, trim_offsets: true, use_regex: false };
  const special = (id: number, content: string) => ({
    id,
    content,
    single_word: false,
    lstrip: false,
    rstrip: false,
    normalized: false,
    special: true,
  });
  const definition = {
    version: "1.0",
    truncation: null,
    padding: null,
    added_tokens: [special(symbols.length, "<s>"), special(symbols.length + 1, "</s>")],
    normalizer: null,
    pre_tokenizer: byteLevel,
    post_processor: null,
    decoder: byteLevel,
    model: {
      type: "BPE",
      dropout: null,
      unk_token: null,
      continuing_subword_prefix: null,
      end_of_word_suffix: null,
      fuse_unk: false,
      byte_fallback: false,
      ignore_merges: false,
      vocab: Object.fromEntries(symbols.map((symbol, id) => [symbol, id])),
      merges: [],
    },
  };
  return makeTokenizer(definition, {
    tokenizer_class: "PreTrainedTokenizerFast",
    bos_token: "<s>",
    eos_token: "</s>",
    clean_up_tokenization_spaces: false,
  });
}
