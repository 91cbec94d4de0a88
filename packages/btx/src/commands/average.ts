import { basename, resolve } from "node:path";
import { defineCommand, terminalTable } from "@trefoil/core";
import { z } from "zod";
import { averageModels } from "../mix/index.js";
import { folder } from "./fields.js";

export const averageCommand = defineCommand({
  name: "average",
  summary: "Average dense checkpoints of one seed into one dense checkpoint.",
  description:
    "The cheapest merge (Model Soups, and the parameter average of Branch-Train-Merge): what a mixture must beat. Weights may come from `btx ensemble --weights`.",
  examples: ["btx average --models experts/code,experts/prose --weights 3,1 --output models/average"],
  schema: z.strictObject({
    models: z
      .array(z.string().min(1))
      .min(2)
      .describe("Folders of the checkpoints; the first gives the tokenizer.")
      .meta({ placeholder: "folders" }),
    weights: z.array(z.number().nonnegative()).default([]).describe("Weight of each; equal by default."),
    output: folder("Folder to write."),
    outputDtype: z
      .enum(["auto", "F32", "BF16", "F16"])
      .default("auto")
      .describe("Dtype of the tensors; auto: as in the checkpoints."),
    overwrite: z.boolean().default(false).describe("Replace an existing output."),
  }),
  run: async ({ models, weights, ...rest }, { stdout }) => {
    const divergence = await averageModels({ models, ...rest, ...(weights.length > 0 && { weights }) });
    const tensors = Object.values(divergence);
    const rows = models.map((path, i) => [
      basename(resolve(path)),
      Math.max(...tensors.map((relative) => relative[i]!)).toFixed(4),
    ]);
    stdout.write(terminalTable({ columns: ["checkpoint", "largest distance from the average"], rows }));
  },
});
