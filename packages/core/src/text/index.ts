export { BpeTokenizer } from "./bpe-tokenizer.js";
export { type BpeTrainingOptions, trainBpe } from "./bpe-train.js";
export { ByteTokenizer } from "./byte-tokenizer.js";
export { compareTokenizers, type TokenizerDifference } from "./compare-tokenizers.js";
export { TokenizerError, type TokenizerErrorCode } from "./errors.js";
export { HuggingFaceTokenizer } from "./hf-tokenizer.js";
export type { DecodeOptions, EncodeOptions, Tokenizer } from "./tokenizer.js";
export { loadTokenizer, makeTokenizer, saveTokenizer, tokenizerFiles } from "./tokenizer-files.js";
export type { TokenizerConfig, TokenizerDefinition } from "./tokenizer-json.js";
