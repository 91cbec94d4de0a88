import { byteCharacters } from "../text/byte-alphabet.js";
import { canonicalParts, type TokenizerDefinition } from "../text/tokenizer-json.js";

/** Llama 3's split of text into words, as its `tokenizer.json` has it. */
const llama3Split =
  "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";

type Component = Readonly<Record<string, unknown>> | null;

/** llama.cpp's name (`tokenizer.ggml.pre`) for the split of a byte-level BPE; undefined for what it would tokenize differently. */
export function byteLevelSplit(definition: TokenizerDefinition): "gpt-2" | "llama-bpe" | "smaug-bpe" | undefined {
  const { model, vocab, normalizer, preTokenizer, decoder } = canonicalParts(definition);
  const keys = Object.keys(model);
  if (model.type !== "BPE" || !keys.every((key) => ["type", "fuse_unk", "ignore_merges"].includes(key)))
    return undefined;
  if (!byteCharacters.every((character) => character in vocab) || normalizer !== null || decoder?.type !== "ByteLevel")
    return undefined;
  const wholeWords = model.ignore_merges === true;
  if (isByteLevel(preTokenizer, true)) return wholeWords ? undefined : "gpt-2";
  const steps = preTokenizer?.type === "Sequence" ? (preTokenizer.pretokenizers as Component[]) : [];
  if (steps.length !== 2 || !isByteLevel(steps[1]!, false)) return undefined;
  const { type, pattern, behavior, invert } = steps[0] as { pattern?: { Regex?: string } } & NonNullable<Component>;
  if (type !== "Split" || pattern?.Regex !== llama3Split || behavior !== "Isolated" || invert === true)
    return undefined;
  // Llama 3 takes a word that is a token as it is; llama.cpp has the same split without that under another model's name.
  return wholeWords ? "llama-bpe" : "smaug-bpe";
}

function isByteLevel(step: Component, splits: boolean): boolean {
  return step?.type === "ByteLevel" && step.add_prefix_space === false && (step.use_regex !== false) === splits;
}

/**
 * Whether SentencePiece's BPE (Llama 2, Mistral) puts a space before a text; undefined for other tokenizers.
 * Spaces are "▁", and characters without a token are bytes. A text that begins with a space itself gets a second one in llama.cpp, where a
 * `Metaspace` adds none.
 */
export function sentencePiecePrefix(definition: TokenizerDefinition): boolean | undefined {
  const { model, vocab, normalizer, preTokenizer } = canonicalParts(definition);
  const keys = Object.keys(model);
  if (model.type !== "BPE" || model.byte_fallback !== true || typeof model.unk_token !== "string") return undefined;
  if (!keys.every((key) => ["type", "fuse_unk", "byte_fallback", "unk_token"].includes(key))) return undefined;
  for (let byte = 0; byte < 256; byte++)
    if (vocab[`<0x${byte.toString(16).toUpperCase().padStart(2, "0")}>`] === undefined) return undefined;
  if (normalizer === null) {
    const { type, replacement, prepend_scheme: scheme, split } = (preTokenizer ?? {}) as NonNullable<Component>;
    if (type !== "Metaspace" || replacement !== "▁" || split !== false) return undefined;
    return scheme !== "never";
  }
  if (preTokenizer !== null) return undefined;
  const steps = normalizer.type === "Sequence" ? (normalizer.normalizers as Component[]) : [normalizer as Component];
  const replaces = (step: Component) =>
    step?.type === "Replace" && (step.pattern as { String?: string }).String === " " && step.content === "▁";
  if (steps.length === 1 && replaces(steps[0]!)) return false;
  const [first, second] = steps;
  const prepends = first?.type === "Prepend" && first.prepend === "▁";
  return steps.length === 2 && prepends && replaces(second!) ? true : undefined;
}
