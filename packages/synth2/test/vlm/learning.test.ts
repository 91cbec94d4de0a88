import { Llama } from "@trefoil/core";
import { expect, it } from "vitest";
import { Captioner, type LanguageModel, VlmTrainer } from "../../src/index.js";
import { settings, vlmSizes } from "./small.js";

const model = new Llama(
  {
    vocabSize: 24,
    hiddenSize: 32,
    intermediateSize: 64,
    layers: 2,
    heads: 2,
    keyValueHeads: 2,
    headDim: 16,
    rmsNormEps: 1e-5,
    ropeTheta: 1e4,
    tieWordEmbeddings: true,
    maxPositions: 40,
    initializerRange: 0.3,
  },
  1,
);
/** Captions are written as token ids. */
const tokenizer = {
  encode: (text: string) => Int32Array.from(text.split(" "), Number),
  decode: (ids: Iterable<number>) => [...ids].join(" "),
};
const language = { model, tokenizer, start: 1, ends: [2] } as unknown as LanguageModel;

it("learns to say what is in a picture, on a frozen language model that knows nothing", async () => {
  const captionOf = (index: number) => `${4 + (index >> 2)} ${10 + (index & 3)}`;
  const real = {
    ...{ length: 16, positions: 4, dimension: 8, tokenizerHash: "plain" },
    get: (index: number) => {
      const embedding = new Float32Array(32);
      embedding[index >> 2] = 1;
      embedding[28 + (index & 3)] = 1;
      return { id: String(index), captions: [captionOf(index)], embedding };
    },
  };
  const architecture = { ...vlmSizes, gridSize: 2, codeWidth: 8, textWidth: 32, textLayers: 2 };
  const options = { language, maxTextTokens: 6, settings: settings(150, { learningRate: 6e-3 }) };
  const trainer = new VlmTrainer(architecture, options);
  let loss = 0;
  for (let step = 0; step < 150; step++) ({ loss } = await trainer.step({ real, syntheticShare: 0 }, step));
  // Without the picture no model is below 2 ln 4 / 3 = 0.92 nats a token.
  expect(loss).toBeLessThan(0.1);
  using captioner = new Captioner(trainer.model, language, { maxTokens: 6, batch: 5 });
  expect(await captioner.captionAll(real)).toEqual(Array.from({ length: 16 }, (_, index) => captionOf(index)));
});
