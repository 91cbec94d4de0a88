import { trainBpe } from "@trefoil/core";
import { captionsOf, classedCaptions, type TrainingSettings, trainLanguageModel } from "../../src/index.js";
import { world } from "../pipeline/small.js";

export const settings = (steps: number, extra: Partial<TrainingSettings> = {}): TrainingSettings => ({
  steps,
  batch: 16,
  learningRate: 3e-3,
  warmupSteps: 5,
  weightDecay: 0,
  clipNorm: 1,
  seed: 1,
  checkpointEvery: 4,
  keepCheckpoints: 2,
  ...extra,
});

/** A language model of seconds, on the captions of the small world. */
export async function trainSmallLanguage(output: string, steps: number, extra: object = {}) {
  return await trainLanguageModel({
    captions: await classedCaptions(world),
    dataName: "small world",
    tokenizer: await trainBpe(await captionsOf(world), { vocabSize: 320 }),
    sizes: { hiddenSize: 32, layers: 2, heads: 2, intermediateSize: 64, maxPositions: 40 },
    settings: settings(steps, { learningRate: 1e-2 }),
    output,
    run: `${output}-run`,
    ...extra,
  });
}

export const vlmSizes = { latents: 4, width: 32, layers: 1, heads: 2, everyLayers: 1 };
