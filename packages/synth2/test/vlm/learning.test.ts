import { join } from "node:path";
import { Llama, trainBpe } from "@trefoil/core";
import { expect, it } from "vitest";
import {
  Captioner,
  hashLanguageModel,
  LanguageModel,
  measurePictureUse,
  openVlm,
  scoreDataset,
  trainVlm,
  VisionLanguageModel,
  VlmTrainer,
  vlmArchitecture,
} from "../../src/index.js";
import { temporaryFolder } from "../folder.js";
import { plainPictures, settings, trainSmallLanguage, vlmSizes } from "./small.js";

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

it("learns to say where something is: pictures that differ by its place alone", async () => {
  const [positions, dimension, looks] = [16, 8, 2];
  const captionOf = (index: number) => `${4 + (index % looks)} ${6 + Math.floor(index / looks)}`;
  const real = {
    ...{ length: positions * looks, positions, dimension, tokenizerHash: "plain" },
    get: (index: number) => {
      const embedding = new Float32Array(positions * dimension).fill(0.3);
      embedding[dimension * Math.floor(index / looks) + (index % looks)] = -0.5;
      return { id: String(index), captions: [captionOf(index)], embedding };
    },
  };
  const architecture = { ...vlmSizes, patch: 1, gridSize: 4, codeWidth: dimension, textWidth: 32, textLayers: 2 };
  const steps = settings(400, { learningRate: 4e-3, batch: 32 });
  const trainer = new VlmTrainer(architecture, { language, maxTextTokens: 6, settings: steps });
  for (let step = 0; step < steps.steps; step++) await trainer.step({ real, syntheticShare: 0 }, step);
  using captioner = new Captioner(trainer.model, language, { maxTokens: 6, batch: 32 });
  const right = (await captioner.captionAll(real)).filter((caption, index) => caption === captionOf(index));
  // Without places one in sixteen.
  expect(right.length).toBeGreaterThan(0.9 * real.length);
});

it("reads its pictures on a trained language model, which stays as it is", async () => {
  const folder = await temporaryFolder();
  const at = (name: string) => join(folder, name);
  const real = plainPictures();
  const texts = real.samples.flatMap(({ captions }) => captions);
  await trainSmallLanguage(at("language"), 100, {
    captions: texts.map((caption) => ({ caption, classes: [] })),
    tokenizer: await trainBpe(texts, { vocabSize: 300 }),
  });
  using language = await LanguageModel.open(at("language"));
  const measure = (model: VisionLanguageModel) => measurePictureUse(model, real, { language, maxTextTokens: 12 });
  const captionsOf = async (model: VisionLanguageModel) => {
    using captioner = new Captioner(model, language, { maxTokens: 12, batch: 16 });
    return await captioner.captionAll(real);
  };

  // Gates are 0: what the language model says of any picture. It has learned all that there is to know without seeing, ln 32 nats of a
  // caption; a word for each of "a red circle" and its end, half of which start with "there is".
  const unseeing = new VisionLanguageModel(vlmArchitecture(vlmSizes, real, language), language.model);
  const blind = await measure(unseeing);
  expect(blind.own).toBe(blind.other);
  expect(blind.own).toBeLessThan(1.1 * (Math.log(32) / 4));
  expect(new Set(await captionsOf(unseeing)).size).toBe(1);

  const { hash } = await trainVlm({
    ...{ data: { real, syntheticShare: 0 }, dataName: "plain", language, sizes: vlmSizes, maxTextTokens: 12 },
    ...{ settings: settings(250, { learningRate: 6e-3 }), output: at("vlm"), run: at("vlm-run") },
  });
  const opened = await openVlm(at("vlm"), language);
  expect(opened.hash).toBe(hash);
  const { own, other } = await measure(opened.model);
  // What is left is which of its two captions a picture has, ln 2 nats.
  expect(own).toBeLessThan(1.3 * (Math.log(2) / 4));
  expect(other).toBeGreaterThan(4 * own);
  const seeing = await captionsOf(opened.model);
  const { attributes } = scoreDataset(seeing, real);
  // By chance a quarter.
  expect(attributes!.accuracy.colour).toBeGreaterThan(0.95);
  expect(attributes!.accuracy.shape).toBeGreaterThan(0.95);
  expect(attributes!.grammatical).toBe(1);
  expect(await hashLanguageModel(language.model)).toBe(language.hash);
  // A picture's caption does not depend on those beside it.
  using alone = new Captioner(opened.model, language, { maxTokens: 12, batch: 1 });
  expect(await alone.caption((await real.get(3)).embedding, 1)).toEqual([seeing[3]]);
}, 60_000);
