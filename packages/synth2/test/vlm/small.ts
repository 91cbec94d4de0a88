import { trainBpe } from "@trefoil/core";
import {
  type CodedDataset,
  captionsOf,
  classedCaptions,
  type EmbeddedDataset,
  type TrainingSettings,
  trainLanguageModel,
} from "../../src/index.js";
import { smallSettings, world } from "../pipeline/small.js";

export const settings = (steps: number, extra: Partial<TrainingSettings> = {}): TrainingSettings =>
  smallSettings(steps, { batch: 16, warmupSteps: 5, ...extra });

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

export const vlmSizes = {
  patch: 2,
  pictureLayers: 1,
  placeDeviation: 0.3,
  latents: 4,
  width: 32,
  layers: 1,
  heads: 2,
  everyLayers: 1,
};

/** Embeddings that say plainly what is in the picture: its colour in the first position, its shape in the last. */
export function plainPictures(): EmbeddedDataset & Pick<CodedDataset, "samples"> {
  const [colours, shapes] = [
    ["red", "green", "blue", "white"],
    ["circle", "square", "star", "ring"],
  ];
  const samples = colours.flatMap((colour, c) =>
    shapes.map((shape, s) => ({
      id: `${c}${s}`,
      captions: [`a ${colour} ${shape}`, `there is a ${colour} ${shape}`],
      attributes: { objects: [{ colour, shape, size: "large" as const, row: 1, column: 1 }] },
    })),
  );
  return {
    ...{ length: 16, positions: 4, dimension: 8, tokenizerHash: "plain", samples },
    get: (index) => {
      const embedding = new Float32Array(32);
      embedding[index >> 2] = 1;
      embedding[28 + (index & 3)] = 1;
      const { id, captions } = samples[index]!;
      return { id, captions, embedding };
    },
  };
}
