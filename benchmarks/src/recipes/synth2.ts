import { InitialValues } from "@trefoil/core";
import {
  architectureSchema,
  type CodedPairs,
  type GeneratorArchitecture,
  type GeneratorLossSettings,
  GeneratorTrainer,
  imagesTensor,
  MaskedGenerator,
  MaskedSampler,
  pictureSeed,
  samplingSchema,
  type TokenizerLossSettings,
  TokenizerTrainer,
  type TrainingSettings,
} from "@trefoil/synth2";
import type { Case, Opened, Timing } from "../measure/side.js";

/** More updates than are ever measured: the schedule hardly moves. */
const settings = (batch: number): TrainingSettings => ({
  steps: 1_000_000,
  batch,
  learningRate: 1e-4,
  warmupSteps: 0,
  weightDecay: 0,
  clipNorm: 1,
  seed: 0,
  checkpointEvery: 1_000_000,
  keepCheckpoints: 1,
});

const timed = (once: () => Promise<unknown>) => ({
  name: "trefoil",
  async run(repetitions: number): Promise<Timing> {
    const begun = performance.now();
    for (let i = 0; i < repetitions; i++) await once();
    return { seconds: (performance.now() - begun) / 1000 / repetitions };
  },
});

interface TokenizerTask {
  name: string;
  imageSize: number;
  channels: number[];
  codes: number;
  batch: number;
}

/** A training step of the image tokenizer: a VQ-GAN without discriminator, its codebook by moving averages, dead codes replaced. */
function tokenizerStep({ name, imageSize, channels, codes, batch }: TokenizerTask): Case {
  const architecture = architectureSchema.parse({
    ...{ imageSize, patchSize: 1, channels, residualBlocks: 1, groups: 8, codes, codeWidth: 8 },
    ...{ codesSee: "picture", structureCodes: 0 },
  });
  const loss: TokenizerLossSettings = {
    reconstruction: "l2",
    contrast: 0,
    codebook: { learning: "ema", decay: 0.98, reviveBelow: 0.1, reviveCandidates: 1 },
    commitment: 0.25,
    reviveUntil: 1,
    adversarial: { weight: 0, startStep: 0, channels: [8], gradientPenalty: 0 },
  };
  return {
    family: "image tokenizer step",
    name: `${name} ${batch}x${imageSize}x${imageSize}`,
    unit: "images/s",
    amount: batch,
    async open(): Promise<Opened> {
      const trainer = new TokenizerTrainer(architecture, loss, settings(batch));
      const images = new InitialValues(1).uniform([batch, imageSize, imageSize, 3], 1);
      let step = 0;
      return {
        side: timed(() => trainer.step(imagesTensor(images, imageSize), step++)),
        close: async () => trainer.dispose(),
      };
    },
    torch: { kernel: "tokenizer_step", image_size: imageSize, channels, groups: 8, codes, code_width: 8, batch },
  };
}

interface GeneratorTask extends Omit<GeneratorArchitecture, "books"> {
  name: string;
  batch: number;
}

const captionLength = 12;
const generatorLoss: GeneratorLossSettings = {
  schedule: "cosine",
  average: "batch",
  dropCondition: 0.1,
  labelSmoothing: 0,
};

/** Captions of one length, and codes, at random. */
function somePairs({ gridSize, codes, vocabulary }: GeneratorArchitecture, count: number): CodedPairs {
  const below = (size: number, limit: number, seed: number) =>
    Int32Array.from(new InitialValues(seed).uniform([size], 0.5), (value) =>
      Math.min(limit - 1, Math.floor((value + 0.5) * limit)),
    );
  const captions = Array.from({ length: count }, (_, i) => [below(captionLength, vocabulary, i + 2)]);
  return { codes: below(count * gridSize ** 2, codes, 1), captions };
}

const torchOf = ({ name: _, ...task }: GeneratorTask) => ({
  ...{ width: task.width, layers: task.layers, heads: task.heads, feed_forward: task.feedForward, batch: task.batch },
  ...{ text_width: task.textWidth, text_layers: task.textLayers, text_length: task.maxTextTokens },
  ...{ text_window: task.textWindow },
  ...{ caption_length: captionLength, grid: task.gridSize, codes: task.codes, vocabulary: task.vocabulary },
});

const shapeOf = ({ batch, gridSize }: GeneratorTask): string => `${batch}x${gridSize}x${gridSize}`;

/** A training step of the masked generator: masks, text encoder, transformer, update. */
function generatorStep(task: GeneratorTask): Case {
  const { name, batch, ...architecture } = task;
  return {
    family: "masked generator step",
    name: `${name} ${shapeOf(task)}`,
    unit: "images/s",
    amount: batch,
    async open(): Promise<Opened> {
      const trainer = new GeneratorTrainer(architecture, generatorLoss, settings(batch));
      const pairs = somePairs(architecture, 4 * batch);
      let step = 0;
      return { side: timed(() => trainer.step(pairs, step++)), close: async () => trainer.dispose() };
    },
    torch: { kernel: "generator_step", ...torchOf(task) },
  };
}

/** Pictures from captions: all codes in some steps, with and without the caption; guidance grows from 0, as the peer's does. */
function generation(task: GeneratorTask, steps: number): Case {
  const { name, batch, ...architecture } = task;
  return {
    family: "masked generation",
    name: `${name} ${shapeOf(task)}, ${steps} steps`,
    unit: "images/s",
    amount: batch,
    async open(): Promise<Opened> {
      const model = new MaskedGenerator(architecture, 0);
      const sampler = new MaskedSampler(model, samplingSchema.parse({ steps, guidance: 2, guidanceRamp: true }), batch);
      const captions = somePairs(architecture, batch).captions.map(([caption]) => caption!);
      const seeds = captions.map((_, i) => pictureSeed(0, String(i)));
      return { side: timed(() => sampler.sample({ captions, seeds })), close: async () => model.dispose() };
    },
    torch: { kernel: "generate_codes", steps, guidance: 2, ...torchOf(task) },
  };
}

export function synth2Cases(quick: boolean): Case[] {
  const tinyText = { textWidth: 16, textLayers: 1, textWindow: 2, maxTextTokens: 16 };
  const tiny = { width: 32, layers: 1, heads: 2, feedForward: 32, ...tinyText };
  const usualText = { textWidth: 96, textLayers: 2, textWindow: 4, maxTextTokens: 32 };
  const usual = { width: 128, layers: 4, heads: 4, feedForward: 256, ...usualText };
  const small: GeneratorTask = {
    name: "tiny",
    batch: 2,
    gridSize: 4,
    codes: 16,
    codeWidth: 4,
    vocabulary: 32,
    ...tiny,
  };
  const large: GeneratorTask = {
    ...{ name: "1m", batch: 16, gridSize: 16, codes: 512, codeWidth: 8, vocabulary: 512 },
    ...usual,
  };
  return quick
    ? [
        tokenizerStep({ name: "tiny", imageSize: 8, channels: [8, 8], codes: 16, batch: 2 }),
        generatorStep(small),
        generation(small, 2),
      ]
    : [
        tokenizerStep({ name: "f4", imageSize: 64, channels: [32, 64, 64], codes: 512, batch: 8 }),
        generatorStep(large),
        generation({ ...large, batch: 8 }, 12),
      ];
}
