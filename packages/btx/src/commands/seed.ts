import { ByteTokenizer, defineCommand } from "@trefoil/core";
import { z } from "zod";
import { closeDomains } from "../domains/index.js";
import { trainSeed } from "../stages/index.js";
import { dataFields, openData, outputFields, runOf, trainFields } from "./fields.js";
import { writeTrainingReport } from "./training-report.js";

const size = (value: number, meaning: string) => z.number().int().positive().default(value).describe(meaning);

export const seedCommand = defineCommand({
  name: "seed",
  summary: "Train a small Llama from scratch on all domains, to branch from.",
  description: "Only needed to try the method out: any Hugging Face Llama or Mistral folder is a seed.",
  examples: [
    "btx seed --output models/seed",
    "btx seed --output models/seed --data.domains.notes ./notes --data.domains.code @code",
  ],
  schema: z.strictObject({
    ...outputFields,
    model: z
      .strictObject({
        hiddenSize: size(192, "Width of the residual stream."),
        intermediateSize: size(512, "Width of the feed-forward layers."),
        layers: size(4, "Decoder blocks."),
        heads: size(6, "Attention heads; hiddenSize is a multiple of them."),
        keyValueHeads: size(6, "Heads of keys and values; heads is a multiple of them."),
        maxPositions: size(512, "Longest context."),
      })
      .refine(({ hiddenSize, heads }) => hiddenSize % (2 * heads) === 0, {
        path: ["heads"],
        error: "hiddenSize must be an even multiple of heads",
      })
      .refine(({ heads, keyValueHeads }) => heads % keyValueHeads === 0, {
        path: ["keyValueHeads"],
        error: "heads must be a multiple of keyValueHeads",
      })
      .prefault({}),
    data: dataFields.prefault({}),
    train: trainFields({ steps: 1000, learningRate: 3e-3 }).prefault({}),
  }),
  run: async (config, { progress, signal }) => {
    const tokenizer = new ByteTokenizer();
    const run = runOf(config);
    const domains = await openData(config.data, tokenizer, signal);
    const { output, resume, overwrite, model: sizes, train: settings } = config;
    try {
      const completed = await trainSeed({
        sizes,
        domains,
        tokenizer,
        settings,
        output,
        run,
        resume,
        overwrite,
        progress,
        signal,
      });
      await writeTrainingReport(run, "btx seed", { seed: run }, config);
      if (completed) progress.log(`The model is in ${output}, the report in ${run}/report.html.`);
    } finally {
      closeDomains(domains);
    }
  },
});
