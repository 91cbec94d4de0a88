import { createHash } from "node:crypto";
import { z } from "zod";
import { reasonOf } from "../io/reason.js";
import { TokenizerError } from "./errors.js";

const tokenId = z.number().int().min(0).max(0x7fffffff);
// Not a zod record: that loses the token "__proto__".
const vocabulary = z.custom<Record<string, number>>(
  (value) =>
    typeof value === "object" &&
    value !== null &&
    !Array.isArray(value) &&
    Object.values(value).every((id) => tokenId.safeParse(id).success),
  "expected tokens with whole numbers from 0 as ids",
);
const component = z.looseObject({ type: z.string() }).nullish();

const definitionSchema = z.looseObject({
  added_tokens: z
    .array(z.looseObject({ id: tokenId, content: z.string().min(1), special: z.boolean().default(false) }))
    .default([]),
  normalizer: component,
  pre_tokenizer: component,
  post_processor: component,
  decoder: component,
  model: z.looseObject({
    type: z.string().default("BPE"),
    vocab: z.union([vocabulary, z.array(z.tuple([z.string(), z.number()]))]),
    merges: z.array(z.union([z.string(), z.tuple([z.string(), z.string()])])).optional(),
  }),
});

/** A `tokenizer.json`. */
export type TokenizerDefinition = z.infer<typeof definitionSchema>;

/** A `tokenizer_config.json`. */
export type TokenizerConfig = Readonly<Record<string, unknown>>;

/** @throws TokenizerError `TOKENIZER_INVALID` saying which field is wrong */
export function parseDefinition(json: unknown, source: string): TokenizerDefinition {
  const result = definitionSchema.safeParse(json);
  if (!result.success) throw new TokenizerError("TOKENIZER_INVALID", `${source}: ${reasonOf(result.error)}`);
  const seen = new Map<number, string>();
  for (const [token, id] of vocabEntries(result.data)) {
    const other = seen.get(id);
    if (other !== undefined) {
      throw new TokenizerError("TOKENIZER_INVALID", `${source}: "${other}" and "${token}" have the same id ${id}`);
    }
    seen.set(id, token);
  }
  return result.data;
}

/** Tokens of the model's vocabulary and added tokens, each once, with ids. */
export function vocabEntries({ model, added_tokens }: TokenizerDefinition): Map<string, number> {
  const own = Array.isArray(model.vocab)
    ? model.vocab.map(([token], id): [string, number] => [token, id])
    : Object.entries(model.vocab);
  return new Map([...own, ...added_tokens.map(({ content, id }): [string, number] => [content, id])]);
}

/** One more than the largest id. */
export function vocabSizeOf(definition: TokenizerDefinition): number {
  let size = 0;
  for (const id of vocabEntries(definition).values()) size = Math.max(size, id + 1);
  return size;
}

/** Merges as pairs, whichever of the two notations the file uses. */
export function mergePairs(definition: TokenizerDefinition): [string, string][] {
  return (definition.model.merges ?? []).map((merge) => {
    if (typeof merge !== "string") return merge;
    const space = merge.indexOf(" ", 1);
    if (space < 0) throw new TokenizerError("TOKENIZER_INVALID", `the merge "${merge}" is not a pair of tokens`);
    return [merge.slice(0, space), merge.slice(space + 1)];
  });
}

/** Id of a special token that `tokenizer_config.json` names, as a string or as an object with `content`. */
export function specialTokenId(
  definition: TokenizerDefinition,
  config: TokenizerConfig,
  name: "bos_token" | "eos_token" | "pad_token",
): number | undefined {
  const value = config[name];
  const content = typeof value === "object" && value !== null ? (value as { content?: unknown }).content : value;
  return typeof content === "string" ? vocabEntries(definition).get(content) : undefined;
}

/** The parts that decide ids, in one notation. */
export function canonicalParts(definition: TokenizerDefinition) {
  const { vocab: _vocab, merges: _merges, ...settings } = definition.model;
  return {
    vocab: Object.fromEntries(vocabEntries(definition)),
    merges: mergePairs(definition).map(([left, right]) => `${left} ${right}`),
    // Versions of the library differ in writing out what is off.
    model: Object.fromEntries(
      Object.entries(settings).filter(([, value]) => value !== null && value !== false && value !== ""),
    ),
    addedTokens: [...definition.added_tokens].sort((a, b) => a.id - b.id),
    normalizer: definition.normalizer ?? null,
    preTokenizer: definition.pre_tokenizer ?? null,
    postProcessor: definition.post_processor ?? null,
    decoder: definition.decoder ?? null,
  };
}

/** SHA-256 of the parts that decide ids; order of keys, white space, padding and truncation settings do not count. */
export function definitionHash(definition: TokenizerDefinition): string {
  return createHash("sha256")
    .update(canonicalJson(canonicalParts(definition)))
    .digest("hex");
}

/** JSON with sorted keys. */
export function canonicalJson(value: unknown): string {
  return JSON.stringify(value, (_key, inner: unknown) => {
    if (typeof inner !== "object" || inner === null || Array.isArray(inner)) return inner;
    return Object.fromEntries(Object.entries(inner).sort(([a], [b]) => (a < b ? -1 : 1)));
  });
}
