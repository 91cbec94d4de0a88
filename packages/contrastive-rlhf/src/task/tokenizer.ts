import { byteLevelBpe, makeTokenizer, type Tokenizer } from "@trefoil/core";
import { letters, separator } from "./gold.js";

/** A token for each symbol of the task, and two that begin and end texts: small policies need not learn which bytes never occur. */
export function taskTokenizer(): Tokenizer {
  const symbols = [...letters, separator];
  const definition = byteLevelBpe({
    tokens: symbols,
    specialTokens: [
      { id: symbols.length, content: "<s>" },
      { id: symbols.length + 1, content: "</s>" },
    ],
  });
  return makeTokenizer(definition, {
    tokenizer_class: "PreTrainedTokenizerFast",
    bos_token: "<s>",
    eos_token: "</s>",
    clean_up_tokenization_spaces: false,
  });
}
