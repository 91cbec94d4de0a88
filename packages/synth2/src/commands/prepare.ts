import { defineCommand } from "@trefoil/core";
import { z } from "zod";
import { prepareImages } from "../data/index.js";

export const prepareCommand = defineCommand({
  name: "prepare",
  summary: "Decode images with captions once, into a folder that the training stages read.",
  description:
    "Reads WebDataset tars (brace shards), COCO captions, Karpathy's JSON, JSONL, or a folder of images with .txt captions; PNG, JPEG and WebP. Broken images and captions are left out, counted, and listed in skipped.jsonl.",
  examples: [
    "synth2 prepare --source 'shards/{00000..00010}.tar' --output data/train",
    "synth2 prepare --source captions_train2014.json --images train2014 --output data/coco --size 128",
  ],
  schema: z.strictObject({
    source: z
      .string()
      .min(1)
      .describe("Folder, .tar or brace pattern of them, .json or .jsonl.")
      .meta({ placeholder: "path" }),
    images: z
      .string()
      .min(1)
      .describe("Folder of the images that a .json or .jsonl names. Default: beside it.")
      .optional(),
    split: z.string().min(1).describe("Of Karpathy's JSON: train, restval, val or test. Default: all.").optional(),
    output: z.string().min(1).describe("Folder to make.").meta({ placeholder: "folder" }),
    size: z
      .number()
      .int()
      .min(8)
      .max(1024)
      .default(64)
      .describe("Width and height of every image.")
      .meta({ unit: "pixels" }),
    limit: z.number().int().positive().describe("Stop after this many samples.").optional(),
    threads: z.number().int().min(1).max(64).default(1).describe("Threads that decode."),
    overwrite: z.boolean().default(false).describe("Replace an existing output."),
  }),
  run: async (config, { progress, signal }) => {
    const { samples, problems } = await prepareImages({ ...config, progress, signal });
    if (problems.total > 0) progress.warn(`${problems}; the list is in ${config.output}/skipped.jsonl`);
    progress.log(`${samples} images with captions are in ${config.output}.`);
  },
});
