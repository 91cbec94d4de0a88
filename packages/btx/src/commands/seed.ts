import { ByteTokenizer, defineCommand, requireFreeOutput } from "@trefoil/core";
import { z } from "zod";
import { closeDomains } from "../domains/index.js";
import { trainSeed } from "../stages/index.js";
import { dataFields, fitsContext, modelFields, openData, outputFields, runOf, trainFields } from "./fields.js";
import { writeTrainingReport } from "./training-report.js";

export const seedCommand = defineCommand({
  name: "seed",
  summary: "Train a small Llama from scratch on all domains, to branch from.",
  description: "Only needed to try the method out: any Hugging Face Llama or Mistral folder is a seed.",
  examples: [
    "btx seed --output models/seed",
    "btx seed --output models/seed --data.domains.notes ./notes --data.domains.code @code",
  ],
  schema: z
    .strictObject({
      ...outputFields,
      model: modelFields({
        hiddenSize: 192,
        intermediateSize: 512,
        layers: 4,
        heads: 6,
        keyValueHeads: 6,
        maxPositions: 512,
      }).prefault({}),
      data: dataFields.prefault({}),
      train: trainFields({ steps: 1000, learningRate: 3e-3 }).prefault({}),
    })
    .refine(({ model, train }) => train.sequence <= model.maxPositions, fitsContext(["train", "sequence"])),
  run: async (config, { progress, signal }) => {
    const tokenizer = new ByteTokenizer();
    const run = runOf(config);
    const { output, resume, overwrite, model: sizes, train: settings } = config;
    // Found out now, not when all text is read.
    requireFreeOutput({ output, run, overwrite });
    const domains = await openData(config.data, tokenizer, signal);
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
