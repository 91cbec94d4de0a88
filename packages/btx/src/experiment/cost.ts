import { choicesOf, type DecoderSizes, type TransformerConfigFields } from "@trefoil/core";

/** What training after the seed took, branches included. */
export interface Cost {
  tokens: number;
  /** 6 × active parameters × tokens. */
  flops: number;
  /** CPU seconds of one thread. */
  seconds: number;
}

export const noCost: Cost = { tokens: 0, flops: 0, seconds: 0 };

export const totalCost = (costs: readonly Cost[]): Cost =>
  costs.reduce(
    (sum, { tokens, flops, seconds }) => ({
      tokens: sum.tokens + tokens,
      flops: sum.flops + flops,
      seconds: sum.seconds + seconds,
    }),
    noCost,
  );

/** Parameters that one token visits, the embedding table among them. */
export function activeParameters(
  config: DecoderSizes & Pick<TransformerConfigFields, "experts" | "expertsPerToken" | "router">,
): number {
  const { vocabSize, hiddenSize: d, layers, heads, keyValueHeads, headDim, experts } = config;
  const attention = 2 * d * headDim * (heads + keyValueHeads);
  const visited = (layer: number): number => {
    if (experts === undefined) return 1;
    const { router = { kind: "top-k" as const }, expertsPerToken = 2 } = config;
    return layer === 0 && router.softFirstLayer ? experts : choicesOf(router, experts, expertsPerToken);
  };
  const feedForward = Array.from({ length: layers }, (_, layer) => visited(layer) * 3 * d * config.intermediateSize);
  const blocks = feedForward.reduce((sum, each) => sum + each + attention + 2 * d + d * (experts ?? 0), 0);
  return blocks + d + vocabSize * d * (config.tieWordEmbeddings ? 1 : 2);
}
