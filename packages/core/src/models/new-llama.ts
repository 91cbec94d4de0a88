import type { TransformerConfigFields } from "../io/index.js";
import type { Tokenizer } from "../text/index.js";

/** Sizes of a Llama that is trained from scratch. */
export interface LlamaSizes {
  hiddenSize: number;
  intermediateSize: number;
  layers: number;
  heads: number;
  keyValueHeads: number;
  maxPositions: number;
}

/** The configuration of a new Llama that reads a tokenizer's tokens; without an end of text, nothing ends its texts. */
export function newLlamaConfig(
  sizes: LlamaSizes,
  { vocabSize, bosTokenId, eosTokenId }: Pick<Tokenizer, "vocabSize" | "bosTokenId" | "eosTokenId">,
  rest: Pick<TransformerConfigFields, "tieWordEmbeddings" | "initializerRange">,
): TransformerConfigFields {
  return {
    family: "llama",
    ...sizes,
    vocabSize,
    headDim: sizes.hiddenSize / sizes.heads,
    rmsNormEps: 1e-5,
    ropeTheta: 1e4,
    eosTokenIds: eosTokenId === undefined ? [] : [eosTokenId],
    ...(bosTokenId !== undefined && { bosTokenId }),
    ...rest,
  };
}
