import { expect, it } from "vitest";
import { rowsFrom } from "../../src/data/permutation.js";
import {
  compile,
  Embedding,
  emptyBatch,
  LayerNorm,
  Linear,
  Llama,
  OutOfMemoryError,
  Parameter,
  RMSNorm,
  type Tensor,
  TrefoilError,
  zeros,
} from "../../src/index.js";

const sizes = {
  vocabSize: 64,
  hiddenSize: 16,
  intermediateSize: 32,
  layers: 1,
  heads: 2,
  keyValueHeads: 2,
  headDim: 8,
  maxPositions: 32,
  rmsNormEps: 1e-5,
  ropeTheta: 10_000,
  tieWordEmbeddings: true,
  initializerRange: 0.02,
};

// No machine has a TiB for these.
it.each<[string, () => unknown]>([
  ["a batch", () => emptyBatch(1e9, 1e4, false)],
  ["rows of a batch", () => rowsFrom(10, 0, 1e12, 0)],
  ["a layer", () => new Linear(1e6, 1e6)],
  ["a table", () => new Embedding(1e10, 1e3)],
  ["a norm", () => new RMSNorm(1e12)],
  ["a norm with a bias", () => new LayerNorm(1e12)],
  ["positions", () => new Llama({ ...sizes, maxPositions: 1e11 })],
  ["layers", () => new Llama({ ...sizes, layers: 1e9 })],
  ["a result", () => zeros([1e6, 1e6]).data()],
  ["a parameter read", () => new Parameter([1e6, 1e6]).data()],
  ["what a run computes", () => zeros([1e6, 1e6]).exp().sum().item()],
  ["what a run reads", () => compile((x: Tensor) => x.sum()).memory(zeros([1e6, 1e6]))],
])("%s that no memory holds is refused at once, and told what to do", async (_, make) => {
  const error = await (async () => make())().then(undefined, (reason: unknown) => reason);
  expect(error).toBeInstanceOf(OutOfMemoryError);
  expect(error).toBeInstanceOf(TrefoilError);
  expect(error).toMatchObject({
    code: "TREFOIL_OUT_OF_MEMORY",
    message: expect.stringMatching(/ takes [\d.e+]+ [TPE]iB, and this machine has [\d.]+ [MGT]iB: \w/),
  });
});
