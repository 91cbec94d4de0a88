import { defineCommand } from "@trefoil/core";
import { z } from "zod";
import { openDataset } from "../data/index.js";
import { architectureSchema, trainTokenizer } from "../tokenizer/index.js";
import { count, dataField, outputFields, runOf, trainFields } from "./fields.js";

/** The loss, with what it is by default. */
export const tokenizerLossSchema = z.strictObject({
  reconstruction: z.enum(["l1", "l2"]).default("l2").describe("How pixel errors are measured."),
  contrast: z
    .number()
    .min(0)
    .max(1)
    .default(0.8)
    .describe("Share of a pixel's weight that grows with its distance from its picture's mean colour."),
  commitment: z.number().nonnegative().default(0.25).describe("β, the weight of the commitment loss."),
  reviveUntil: z.number().min(0).max(1).default(0.7).describe("Share of the run in which dead codes are replaced."),
  codebook: z
    .strictObject({
      learning: z
        .enum(["ema", "gradient"])
        .default("ema")
        .describe("How codes follow their latents: by moving averages or by gradient."),
      decay: z.number().min(0).lt(1).default(0.98).describe("γ of the moving averages."),
      reviveBelow: z.number().min(0).default(0.1).describe("A code with fewer latents per batch is dead; 0: never."),
      reviveCandidates: count(8, "A dead code becomes the worst represented of this many latents, drawn at random."),
    })
    .prefault({}),
  adversarial: z
    .strictObject({
      weight: z.number().nonnegative().default(0).describe("Weight of the discriminator's loss; 0: no discriminator."),
      startStep: z.number().int().nonnegative().default(1000).describe("Step from which its loss reaches the decoder."),
      channels: z.array(z.number().int().positive()).min(1).default([32, 64]).describe("Channels of its layers."),
      gradientPenalty: z.number().nonnegative().default(0).describe("Weight of R1 on real pictures; 0: none."),
    })
    .prefault({}),
});

export const tokenizerCommand = defineCommand({
  name: "tokenizer",
  summary: "Train an image tokenizer (VQ-GAN): pictures to a grid of codes and back.",
  description:
    "Encoder, codebook and decoder learn to reconstruct pictures (arXiv 2012.09841). The codebook follows its latents by moving averages or by gradient; codes that are never used are replaced. All later stages share the one tokenizer that this writes.",
  examples: ["synth2 tokenizer --data small-world:paired:3000 --output models/tokenizer"],
  schema: z.strictObject({
    data: dataField,
    heldOut: dataField.describe("Pictures to measure on. Default: none.").optional(),
    evaluateEvery: count(200, "Steps between measurements.").meta({ unit: "steps" }),
    ...outputFields,
    model: architectureSchema.prefault({}),
    loss: tokenizerLossSchema.prefault({}),
    train: trainFields({ steps: 1500, learningRate: 4e-3, batch: 32 }).prefault({}),
  }),
  run: async (config, { progress, signal }) => {
    const { model: architecture, loss, train: settings, output, resume, overwrite, evaluateEvery: every } = config;
    await using data = await openDataset(config.data, architecture.imageSize);
    await using heldOut =
      config.heldOut === undefined ? undefined : await openDataset(config.heldOut, architecture.imageSize);
    const evaluation = heldOut && { data: heldOut.dataset, every };
    const { completed, evaluation: scores } = await trainTokenizer({
      data: data.dataset,
      dataName: data.hash,
      ...{ architecture, loss, settings, output, resume, overwrite, progress, signal },
      run: runOf(config),
      ...(evaluation && { evaluation }),
    });
    if (!completed) return;
    if (scores)
      progress.log(
        `${scores.psnr.toFixed(2)} dB, ${scores.codesUsed} codes used, perplexity ${scores.perplexity.toFixed(1)}.`,
      );
    progress.log(`The tokenizer is in ${output}.`);
  },
});
