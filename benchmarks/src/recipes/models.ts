import { type CausalLM, createModel } from "@trefoil/core";

/** Models by their rough number of parameters; a byte-sized vocabulary, so that the blocks are what is measured. */
const sizes = {
  tiny: { hiddenSize: 32, intermediateSize: 64, layers: 1, heads: 2, keyValueHeads: 2, headDim: 16 },
  "1m": { hiddenSize: 128, intermediateSize: 352, layers: 4, heads: 4, keyValueHeads: 4, headDim: 32 },
  "10m": { hiddenSize: 320, intermediateSize: 864, layers: 8, heads: 5, keyValueHeads: 5, headDim: 64 },
  "60m": { hiddenSize: 640, intermediateSize: 1728, layers: 12, heads: 10, keyValueHeads: 10, headDim: 64 },
} as const;

export type ModelSize = keyof typeof sizes;

/** @param experts per layer, two of them active; 0 is dense, and the size is that of the dense model */
export function modelConfig(size: ModelSize, experts: number, maxPositions: number) {
  return {
    ...sizes[size],
    vocabSize: 512,
    rmsNormEps: 1e-5,
    ropeTheta: 1e4,
    tieWordEmbeddings: false,
    maxPositions,
    initializerRange: 0.02,
    ...(experts > 0 ? { experts, expertsPerToken: 2 } : {}),
  };
}

/** Parameters of the dense model, and those of its feed-forward layers. */
export function denseParameters(size: ModelSize): { all: number; feedForward: number } {
  const { vocabSize, hiddenSize, intermediateSize, layers } = modelConfig(size, 0, 0);
  const feedForward = layers * 3 * hiddenSize * intermediateSize;
  // Queries, keys, values and output are square here; two norms a layer and a last one; embedding and head.
  const attention = layers * 4 * hiddenSize * hiddenSize;
  return { all: feedForward + attention + (2 * layers + 1) * hiddenSize + 2 * vocabSize * hiddenSize, feedForward };
}

export const buildModel = (size: ModelSize, experts: number, maxPositions: number): CausalLM =>
  createModel(modelConfig(size, experts, maxPositions));

/**
 * Floating-point operations of a forward pass for each token: two for every weight that it meets, and causal attention over half of
 * `sequence` keys on average. @param experts of which two are visited; 0: dense
 */
export function forwardFlops(size: ModelSize, experts: number, sequence: number): number {
  const { hiddenSize: d, intermediateSize, layers, vocabSize } = modelConfig(size, experts, sequence);
  const feedForward = (experts > 0 ? 2 : 1) * 3 * d * intermediateSize + experts * d;
  // Scores and their products with the values: half the square each.
  const attention = 4 * d * d + sequence * d;
  return 2 * (layers * (attention + feedForward) + vocabSize * d);
}
