import { z } from "zod";
import { defineCommand } from "../../src/cli/index.js";

const schedule = z.discriminatedUnion("kind", [
  z.strictObject({
    kind: z.literal("cosine").describe("Shape of the learning-rate curve."),
    floor: z.number().min(0).max(1).default(0.1).describe("Final rate as a share of the peak."),
  }),
  z.strictObject({
    kind: z.literal("step"),
    every: z.int().positive().describe("Distance between drops.").meta({ unit: "steps" }),
    factors: z.array(z.number()).default([0.5]).describe("Factor of each drop; the last repeats."),
  }),
]);

/** A schema with every construct that a recipe may use. */
export const schema = z.strictObject({
  out: z.string().min(1).describe("Folder to write.").meta({ placeholder: "folder" }),
  experts: z
    .record(z.string(), z.string())
    .default({})
    .describe("Checkpoint folder of each expert.")
    .meta({ placeholder: "folder" }),
  domains: z
    .array(z.enum(["code", "prose", "math"]))
    .min(1)
    .default(["code", "prose"])
    .describe("Domains to train on."),
  resume: z.boolean().default(false).describe("Continue from the newest checkpoint."),
  seed: z.int().nullable().default(null).describe("Random seed; null draws one."),
  topK: z.int().min(1).default(2).describe("Experts for each token."),
  train: z
    .strictObject({
      steps: z.int().positive().default(1000).describe("Optimiser updates.").meta({ unit: "steps" }),
      learningRate: z.number().positive().default(3e-4).describe("Peak learning rate, reached after warm-up."),
      warmup: z
        .union([z.literal("auto"), z.int().min(0)])
        .default("auto")
        .describe("Warm-up length.")
        .meta({ unit: "steps" }),
      schedule: schedule.default({ kind: "cosine", floor: 0.1 }).describe("Learning-rate schedule."),
    })
    .describe("Training"),
  sampling: z
    .strictObject({
      temperature: z.number().min(0).describe("0 is greedy."),
      betas: z.tuple([z.number(), z.number()]).optional(),
    })
    .optional()
    .describe("Samples printed during training"),
  limits: z
    .array(z.strictObject({ domain: z.string(), bytes: z.int() }))
    .optional()
    .describe("Caps on the data of a domain."),
});

export const finetune = defineCommand({
  name: "finetune",
  summary: "Train the router and the experts of a mixed model.",
  description: "Reads a folder that btx mix wrote and continues its training with top-k routing.",
  examples: ["btx finetune --out runs/moe --train.steps 200"],
  schema,
  async run() {},
});
