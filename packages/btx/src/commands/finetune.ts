import {
  balanceForms,
  beyondTransformers,
  defineCommand,
  loadTokenizer,
  readTransformerConfig,
  requireFreeOutput,
  routerKinds,
} from "@trefoil/core";
import { z } from "zod";
import { closeDomains } from "../domains/index.js";
import { requireContext } from "../stages/context.js";
import { finetuneMixture, finetuneScopes } from "../stages/index.js";
import { dataFields, folder, openData, outputFields, runOf, trainFields } from "./fields.js";
import { writeTrainingReport } from "./training-report.js";

export const finetuneCommand = defineCommand({
  name: "finetune",
  summary: "Train a mixture's router, and the rest of it, on all domains together.",
  examples: [
    "btx finetune --model models/mixture --output models/finetuned",
    "btx finetune --model models/mixture --output models/routed --scope router",
    "btx finetune --model models/mixture --output models/sampled --router.kind sample-top-1 --router.soft-first-layer",
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
            "btx: mean gate weights, as in the paper; btx-detached: no gradient through them; switch: first choices; hf: as transformers (larger by K, layers taken together); megatron: all choices; per-token: as MixtureKit.",
          ),
        coefficient: z
          .number()
          .nonnegative()
          .default(0.01)
          .describe("The paper's α, added per layer; 0: no balancing."),
        layers: z.enum(["sum", "mean"]).default("sum").describe("How layers add up; hf has one value for all."),
      })
      .prefault({}),
    zLoss: z
      .number()
      .nonnegative()
      .default(0)
      .describe("Coefficient of the routers' z-loss, which keeps logits small."),
    router: z
      .strictObject({
        kind: z
          .enum(routerKinds)
          .optional()
          .describe(
            "How routers choose, kept in config.json; by default as the mixture says. top-k: softmax of the kept logits; raw-top-k: kept values of the softmax; switch: one expert of limited capacity; sample-top-1: one expert, drawn in training; soft: all.",
          ),
        expertsPerToken: z.number().int().positive().optional().describe("K of top-k and raw-top-k."),
        capacityFactor: z
          .number()
          .positive()
          .default(1.5)
          .describe("Capacity of an expert under switch, as a multiple of the even share."),
        softFirstLayer: z
          .boolean()
          .default(false)
          .describe("Route the first layer softly, as the paper's Sample Top-1."),
        temperatureRate: z
          .number()
          .nonnegative()
          .default(1e-4)
          .describe("Under sample-top-1 the temperature falls as exp(-rate step)."),
        temperatureFloor: z.number().positive().default(0.5).describe("Lowest temperature of sample-top-1."),
      })
      .prefault({}),
    data: dataFields.prefault({}),
    train: trainFields({ steps: 500, learningRate: 1e-3 }).prefault({}),
  }),
  run: async (config, { progress, signal }) => {
    const run = runOf(config);
    const { model, output, scope, balance, zLoss, router, resume, overwrite, train: settings } = config;
    const { expertsPerToken, capacityFactor, softFirstLayer } = router;
    const kind = router.kind ?? (softFirstLayer ? "top-k" : undefined);
    // Found out now, not when all text is read.
    requireFreeOutput({ output, run, overwrite });
    const tokenizer = await loadTokenizer(model);
    await requireContext([model], settings.sequence, "--train.sequence");
    const domains = await openData(config.data, tokenizer, signal);
    try {
      const completed = await finetuneMixture({
        model,
        domains,
        scope,
        balance,
        zLoss,
        ...(kind && {
          router: { kind, ...(kind === "switch" && { capacityFactor }), ...(softFirstLayer && { softFirstLayer }) },
        }),
        ...(expertsPerToken !== undefined && { expertsPerToken }),
        temperature: { rate: router.temperatureRate, floor: router.temperatureFloor },
        settings,
        output,
        run,
        resume,
        overwrite,
        progress,
        signal,
      });
      await writeTrainingReport(run, "btx finetune", { finetune: run }, config);
      if (!completed) return;
      const reason = beyondTransformers(await readTransformerConfig(output));
      if (reason)
        progress.warn(`transformers cannot compute this mixture (${reason}): it refuses the folder, Trefoil loads it`);
      progress.log(`The model is in ${output}, the report in ${run}/report.html.`);
    } finally {
      closeDomains(domains);
    }
  },
});
