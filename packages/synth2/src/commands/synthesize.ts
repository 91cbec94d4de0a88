import { defineCommand } from "@trefoil/core";
import { z } from "zod";
import { diffusionSamplingSchema } from "../diffusion/index.js";
import { openPictureGenerator } from "../drawing/index.js";
import { samplingSchema } from "../sampling/index.js";
import { readCaptionRows, synthesize } from "../synthesize/index.js";
import { VqImageTokenizer } from "../tokenizer/index.js";
import { count, folder, seedField } from "./fields.js";

export const synthesizeCommand = defineCommand({
  name: "synthesize",
  summary: "Draw an image embedding for every caption of a file.",
  description:
    "Writes shards of embeddings and codes (safetensors) beside their captions (jsonl). What is drawn for a caption depends on it, its id and the seed alone. Stopped or killed, the same command goes on behind the last whole shard and ends with the same files.",
  examples: [
    "synth2 synthesize --captions captions.jsonl --generator models/generator --tokenizer models/tokenizer --output synthetic",
  ],
  schema: z.strictObject({
    captions: z
      .string()
      .min(1)
      .describe('JSON lines with "caption", and "id" to name the picture (default: the number of the line).')
      .meta({ placeholder: "file.jsonl" }),
    generator: folder("Generator."),
    tokenizer: folder("Image tokenizer that it was trained with."),
    output: folder("Folder of the shards."),
    pixels: z.boolean().default(false).describe("Decode the pictures too, as 8-bit pixels in each shard."),
    shardSize: count(256, "Pictures of a shard; memory is bounded by one.").meta({ unit: "pictures" }),
    seed: seedField.describe("Key of the random numbers."),
    sampling: samplingSchema.prefault({}),
    diffusion: diffusionSamplingSchema.prefault({}),
  }),
  run: async (config, { progress, signal }) => {
    const { captions, output } = config;
    using tokenizer = await VqImageTokenizer.open(config.tokenizer);
    const generator = await openPictureGenerator(config.generator);
    try {
      const result = await synthesize({
        ...config,
        ...{ generator, tokenizer, progress, signal },
        captions: readCaptionRows(captions),
      });
      if (!result.completed) return;
      const { pictures, shards, skipped } = result;
      const left = skipped > 0 ? ` ${skipped} captions were too long and are left out.` : "";
      progress.log(`${pictures} embeddings in ${shards} shards are in ${output}.${left}`);
    } finally {
      generator.model.dispose();
    }
  },
});
