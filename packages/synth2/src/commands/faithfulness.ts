import { defineCommand } from "@trefoil/core";
import { z } from "zod";
import { openDataset } from "../data/index.js";
import { diffusionSamplingSchema } from "../diffusion/index.js";
import { openPictureGenerator } from "../drawing/index.js";
import { measureFaithfulness } from "../faithfulness/index.js";
import { samplingSchema } from "../sampling/index.js";
import { VqImageTokenizer } from "../tokenizer/index.js";
import { dataField, folder, seedField } from "./fields.js";

export const faithfulnessCommand = defineCommand({
  name: "faithfulness",
  summary: "Measure whether pictures show what their captions say.",
  description:
    "Draws a picture for a caption of every scene of the built-in world and reads it back with a judge that has no learned part. Prints JSON: the share of what captions say that is true, per attribute and of whole captions (exact), in the true pictures, after the tokenizer's round trip, and in generated pictures.",
  examples: [
    "synth2 faithfulness --data small-world:test:256 --tokenizer models/tokenizer --generator models/generator",
    "synth2 faithfulness --data small-world:novel:256 --tokenizer models/tokenizer",
  ],
  schema: z.strictObject({
    data: dataField,
    tokenizer: folder("Image tokenizer."),
    generator: folder("Generator. Default: none, reconstructions alone are measured.").optional(),
    seed: seedField.describe("Key of the random numbers."),
    sampling: samplingSchema.prefault({}),
    diffusion: diffusionSamplingSchema.prefault({}),
  }),
  run: async (config, { stdout, progress, signal }) => {
    const { seed, sampling, diffusion } = config;
    using tokenizer = await VqImageTokenizer.open(config.tokenizer);
    const generator = config.generator === undefined ? undefined : await openPictureGenerator(config.generator);
    try {
      await using data = await openDataset(config.data, tokenizer.imageSize);
      const found = await measureFaithfulness({
        ...{ data: data.dataset, tokenizer, sampling, diffusion, seed, progress, signal },
        ...(generator && { generator }),
      });
      stdout.write(`${JSON.stringify(found, null, 2)}\n`);
    } finally {
      generator?.model.dispose();
    }
  },
});
