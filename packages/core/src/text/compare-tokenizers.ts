import type { Tokenizer } from "./tokenizer.js";
import { canonicalJson, canonicalParts } from "./tokenizer-json.js";

/** The first thing in which two tokenizers differ. */
export interface TokenizerDifference {
  kind:
    | "vocabSize"
    | "vocabulary"
    | "merges"
    | "model"
    | "addedTokens"
    | "normalizer"
    | "preTokenizer"
    | "postProcessor"
    | "decoder"
    | "specialIds";
  /** Both values, in a sentence. */
  message: string;
}

/** Why two models cannot share token ids; undefined when they can. */
export function compareTokenizers(a: Tokenizer, b: Tokenizer): TokenizerDifference | undefined {
  if (a.vocabSize !== b.vocabSize) {
    return { kind: "vocabSize", message: `the vocabularies have ${a.vocabSize} and ${b.vocabSize} ids` };
  }
  for (const name of ["bosTokenId", "eosTokenId"] as const) {
    if (a[name] !== b[name])
      return { kind: "specialIds", message: `${name} is ${a[name] ?? "absent"} and ${b[name] ?? "absent"}` };
  }
  if (a.hash === b.hash) return undefined;
  const left = canonicalParts(a.definition);
  const right = canonicalParts(b.definition);
  const rightVocab = new Map(Object.entries(right.vocab));
  for (const [token, id] of Object.entries(left.vocab)) {
    const other = rightVocab.get(token);
    if (other !== id)
      return { kind: "vocabulary", message: `${JSON.stringify(token)} has the ids ${id} and ${other ?? "none"}` };
  }
  const merge = left.merges.findIndex((pair, i) => pair !== right.merges[i]);
  if (merge >= 0 || left.merges.length !== right.merges.length) {
    const at = merge >= 0 ? merge : left.merges.length;
    return {
      kind: "merges",
      message: `merge ${at} is "${left.merges[at] ?? "absent"}" and "${right.merges[at] ?? "absent"}"`,
    };
  }
  for (const kind of ["model", "addedTokens", "normalizer", "preTokenizer", "postProcessor", "decoder"] as const) {
    const [one, other] = [canonicalJson(left[kind]), canonicalJson(right[kind])];
    if (one !== other) return { kind, message: `the ${kind} settings are ${clip(one)} and ${clip(other)}` };
  }
  return { kind: "vocabulary", message: "the second vocabulary has tokens that the first lacks" };
}

function clip(json: string): string {
  return json.length > 200 ? `${json.slice(0, 197)}...` : json;
}
