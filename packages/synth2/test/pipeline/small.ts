import { existsSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { type Tokenizer, trainBpe } from "@trefoil/core";
import {
  captionsOf,
  encodePairs,
  type GeneratorLossSettings,
  type TokenizerLossSettings,
  type TrainingSettings,
  trainGenerator,
  trainTokenizer,
  VqImageTokenizer,
  WorldDataset,
} from "../../src/index.js";

/** A pipeline of seconds: pictures of 16 × 16 in 4 × 4 codes. */
export const world = new WorldDataset({ split: "paired", length: 48, size: 16 });

const tokenizerArchitecture = {
  imageSize: 16,
  patchSize: 2,
  channels: [16, 16],
  residualBlocks: 1,
  attention: false,
  groups: 4,
  codes: 32,
  codeWidth: 4,
  codesSee: "picture" as const,
  structureCodes: 0,
  normaliseCodes: false,
};
const tokenizerLoss: TokenizerLossSettings = {
  reconstruction: "l1",
  contrast: 0,
  codebook: { learning: "ema", decay: 0.9, reviveBelow: 0.5, reviveCandidates: 4 },
  commitment: 0.25,
  reviveUntil: 0.7,
  adversarial: { weight: 0, startStep: 0, channels: [8], gradientPenalty: 0 },
};
export const smallSettings = (steps: number, extra: Partial<TrainingSettings> = {}): TrainingSettings => ({
  steps,
  batch: 8,
  learningRate: 3e-3,
  warmupSteps: 2,
  weightDecay: 0,
  clipNorm: 1,
  seed: 1,
  checkpointEvery: 4,
  keepCheckpoints: 2,
  ...extra,
});

export const trainSmallTokenizer = (output: string, steps: number, extra: object = {}) =>
  trainTokenizer({
    data: world,
    dataName: "small world",
    architecture: tokenizerArchitecture,
    loss: tokenizerLoss,
    settings: smallSettings(steps),
    output,
    run: `${output}-run`,
    ...extra,
  });

export const generatorSizes = {
  width: 32,
  layers: 1,
  heads: 2,
  feedForward: 64,
  textWidth: 16,
  textLayers: 1,
  textWindow: 2,
  maxTextTokens: 40,
};
const generatorLoss: GeneratorLossSettings = {
  schedule: "cosine",
  average: "picture",
  dropCondition: 0.1,
  labelSmoothing: 0.1,
};

export async function smallText(): Promise<Tokenizer> {
  return await trainBpe(await captionsOf(world), { vocabSize: 320 });
}

export async function trainSmallGenerator(tokenizer: string, output: string, steps: number, extra: object = {}) {
  using images = await VqImageTokenizer.open(tokenizer);
  const text = await smallText();
  const pairs = await encodePairs(world, images, text, generatorSizes.maxTextTokens);
  const { gridSize, codebookSize: codes, dimension: codeWidth } = images;
  return await trainGenerator({
    pairs,
    evaluation: { pairs, every: steps },
    architecture: { ...generatorSizes, gridSize, codes, codeWidth, vocabulary: text.vocabSize },
    loss: generatorLoss,
    settings: smallSettings(steps),
    text,
    tokenizerHash: images.hash,
    output,
    run: `${output}-run`,
    ...extra,
  });
}

/** A signal that stops a run when its first checkpoint is there. */
export function stopAtCheckpoint(run: string): { signal: AbortSignal } & Disposable {
  const stopping = new AbortController();
  const folder = join(run, "checkpoints");
  const watch = setInterval(() => {
    if (existsSync(folder) && readdirSync(folder).some((name) => name.startsWith("step-"))) stopping.abort();
  }, 1);
  return { signal: stopping.signal, [Symbol.dispose]: () => clearInterval(watch) };
}
