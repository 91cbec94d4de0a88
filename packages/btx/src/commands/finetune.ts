import { defineCommand, loadTokenizer } from "@trefoil/core";
import { z } from "zod";
import { closeDomains } from "../domains/index.js";
import { balanceForms, finetuneMixture, finetuneScopes } from "../stages/index.js";
import { dataFields, folder, openData, outputFields, runOf, trainFields } from "./fields.js";
import { writeTrainingReport } from "./training-report.js";

export const finetuneCommand = defineCommand({
  name: "finetune",
  summary: "Train a mixture's router, and the rest of it, on all domains together.",
  examples: [
    "btx finetune --model models/mixture --output models/finetuned",
    "btx finetune --model models/mixture --output models/routed --scope router",
  ],
  schema: z.strictObject({
    model: folder("Folder of the mixture."),
    ...outputFields,
    scope: z
      .enum(finetuneScopes)
      .default("all")
      .describe("What is trained; the paper trains all and loses nothing with frozen experts."),
    balance: z
      .strictObject({
        form: z
          .enum(balanceForms)
          .default("btx")
          .describe(
            "btx: mean gate weights, as in the paper; switch: first choices; hf: as transformers (larger by K, layers taken together); megatron: all choices.",
          ),
        coefficient: z
          .number()
          .nonnegative()
          .default(0.01)
          .describe("The paper's α, added per layer; 0: no balancing."),
      })
      .prefault({}),
    data: dataFields.prefault({}),
    train: trainFields({ steps: 500, learningRate: 1e-3 }).prefault({}),
  }),
  run: async (config, { progress, signal }) => {
    const run = runOf(config);
    const { model, output, scope, balance, resume, overwrite, train: settings } = config;
    const domains = await openData(config.data, await loadTokenizer(model), signal);
    try {
      const completed = await finetuneMixture({
        model,
        domains,
        scope,
        balance,
        settings,
        output,
        run,
        resume,
        overwrite,
        progress,
        signal,
      });
      await writeTrainingReport(run, "btx finetune", { finetune: run }, config);
      if (completed) progress.log(`The model is in ${output}, the report in ${run}/report.html.`);
    } finally {
      closeDomains(domains);
    }
  },
});
