import { defineCommand } from "@trefoil/core";
import { z } from "zod";
import { prepareImages } from "../data/index.js";
import { count, folder } from "./fields.js";

export const prepareCommand = defineCommand({
  name: "prepare",
  summary: "Decode images with captions once, into a folder that stages read at random.",
  description:
    "Reads COCO captions and Karpathy's splits (.json), JSONL, WebDataset tars (shards-{000..099}.tar), and folders of images with .txt files. Broken images and captions are left out, counted and listed in skipped.jsonl.",
  examples: ["synth2 prepare --source photos --output data/photos"],
  schema: z.strictObject({
    source: z
      .string()
      .min(1)
      .describe("Folder of images, tar or brace pattern of tars, or .json or .jsonl of captions."),
    images: folder("Where the files that a .json or .jsonl names are. Default: beside it.").optional(),
    split: z
      .string()
      .optional()
      .describe("Split of Karpathy's JSON: train, restval, val or test, or several with commas. Default: all."),
    output: folder("Folder to make."),
    size: count(48, "Width and height of the pictures; the tokenizer must have the same.").meta({ unit: "pixels" }),
    limit: z.number().int().positive().optional().describe("Stop after this many pictures."),
    threads: count(1, "Threads that decode."),
    overwrite: z.boolean().default(false).describe("Replace an existing output."),
  }),
  run: async (config, { progress, signal }) => {
    const { samples, problems } = await prepareImages({ ...config, progress, signal });
    progress.log(`${samples} pictures are in ${config.output}.${problems.total > 0 ? ` ${problems}.` : ""}`);
  },
});
