import { z } from "zod";
import type { TrainingSettings } from "../training/index.js";

/** Fields that several commands share. */

export const folder = (meaning: string) => z.string().min(1).describe(meaning).meta({ placeholder: "folder" });
export const count = (value: number, meaning: string) => z.number().int().positive().default(value).describe(meaning);
export const seedField = z.number().int().min(0).max(0xffffffff).default(0);

export const dataField = z
  .string()
  .min(1)
  .describe("Folder made by synth2 prepare, or scenes of the built-in world: world:SPLIT:COUNT[:SEED].")
  .meta({ placeholder: "data" });

/** Where a training command writes. */
export const outputFields = {
  output: folder("Folder of the result."),
  run: folder("Run directory: configuration, metrics, checkpoints. Default: the output's name and -run.").optional(),
  resume: z.boolean().default(false).describe("Go on from the newest checkpoint of the run directory."),
  overwrite: z.boolean().default(false).describe("Replace an existing output."),
};

export const runOf = ({ run, output }: { run?: string | undefined; output: string }): string => run ?? `${output}-run`;

/** @param defaults of the stage */
export const trainFields = (defaults: { steps: number; learningRate: number; batch: number }) =>
  z.strictObject({
    steps: count(defaults.steps, "Optimiser updates.").meta({ unit: "steps" }),
    batch: count(defaults.batch, "Pictures of a batch."),
    learningRate: z
      .number()
      .positive()
      .default(defaults.learningRate)
      .describe("Peak learning rate; falls along half a cosine to a tenth."),
    warmupSteps: z
      .number()
      .int()
      .nonnegative()
      .default(20)
      .describe("Steps over which the rate rises from 0.")
      .meta({ unit: "steps" }),
    weightDecay: z.number().nonnegative().default(0).describe("AdamW's decay of matrices."),
    clipNorm: z.number().positive().default(1).describe("Gradients longer than this are scaled down to it."),
    seed: seedField.describe("Initial weights, order of the data, random numbers."),
    checkpointEvery: count(200, "Steps between checkpoints.").meta({ unit: "steps" }),
    keepCheckpoints: count(2, "Newest checkpoints kept."),
  }) satisfies z.ZodType<TrainingSettings>;
