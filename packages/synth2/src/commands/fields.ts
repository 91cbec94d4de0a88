import { outputFields as coreOutputFields, countField as count, folderField as folder } from "@trefoil/core";
import { z } from "zod";
import type { TrainingSettings } from "../training/index.js";

/** Fields that several commands share. */

export { runOf } from "@trefoil/core";
export { count, folder };

export const seedField = z.number().int().min(0).max(0xffffffff).default(0);

export const dataField = z
  .string()
  .min(1)
  .describe("Folder made by synth2 prepare, or scenes of the built-in world: world:SPLIT:COUNT[:SEED].")
  .meta({ placeholder: "data" });

/** Where a training command writes. */
export const outputFields = {
  ...coreOutputFields,
  output: folder("Folder of the result."),
  run: folder("Run directory: configuration, metrics, checkpoints. Default: the output's name and -run.").optional(),
};

/** @param defaults of the stage */
export const trainFields = (defaults: { steps: number; learningRate: number; batch: number; warmupSteps?: number }) =>
  z.strictObject({
    steps: count(defaults.steps, "Optimiser updates.").meta({ unit: "steps" }),
    batch: count(defaults.batch, "Pictures of a batch."),
    learningRate: z
      .number()
      .positive()
      .default(defaults.learningRate)
      .describe("Peak learning rate; falls along a cosine to a tenth of that."),
    warmupSteps: z
      .number()
      .int()
      .nonnegative()
      .default(defaults.warmupSteps ?? 20)
      .describe("Steps over which the rate rises from 0.")
      .meta({ unit: "steps" }),
    weightDecay: z.number().nonnegative().default(0).describe("AdamW's decay of matrices."),
    clipNorm: z.number().positive().default(1).describe("Gradients with a larger norm are scaled down to it."),
    seed: seedField.describe("Initial weights, order of the data, random numbers."),
    checkpointEvery: count(200, "Steps between checkpoints.").meta({ unit: "steps" }),
    keepCheckpoints: count(2, "Newest checkpoints kept."),
  }) satisfies z.ZodType<TrainingSettings>;
