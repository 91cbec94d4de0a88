import { beyondTransformers, defineCommand } from "@trefoil/core";
import { z } from "zod";
import { planUpcycle, type UpcycleOptions, upcycle } from "../mix/index.js";
import { folder } from "./fields.js";
import { describePlan } from "./mixture-text.js";
import { formatBytes } from "./quantities.js";

export const upcycleCommand = defineCommand({
  name: "upcycle",
  summary: "Make a mixture of copies of one dense checkpoint (sparse upcycling).",
  description:
    "Branch-Train-MiX without branches (arXiv 2212.05055): every expert starts as the checkpoint's feed-forward layer and becomes its own in finetuning.",
  examples: [
    "btx upcycle --model models/seed --output models/upcycled --experts 4",
    "btx upcycle --model models/seed --output models/upcycled --experts 8 --layers 1,2 --noise 0.01",
  ],
  schema: z.strictObject({
    model: folder("Folder of the dense model."),
    output: folder("Folder to write."),
    experts: z.number().int().min(2).default(4).describe("Copies of the feed-forward layers."),
    expertsPerToken: z.number().int().positive().default(2).describe("Experts that each token visits."),
    layers: z
      .array(z.number().int().nonnegative())
      .default([])
      .describe("Layers that become mixtures, from 0; by default all. transformers' Mixtral holds no other.")
      .meta({ placeholder: "numbers" }),
    noise: z
      .number()
      .nonnegative()
      .default(0)
      .describe("Standard deviation of noise on each copy, as a share of its weights' root mean square."),
    seed: z.number().int().nonnegative().default(0).describe("Seed of noise and routers."),
    standardDeviation: z.number().nonnegative().default(0.02).describe("Standard deviation of the routers' weights."),
    layout: z.enum(["legacy", "fused"]).default("legacy").describe("Names of the tensors; see mix."),
    outputDtype: z
      .enum(["auto", "F32", "BF16", "F16"])
      .default("auto")
      .describe("Dtype of the tensors; auto: as in the checkpoint."),
    overwrite: z.boolean().default(false).describe("Replace an existing output."),
    dryRun: z.boolean().default(false).describe("Check everything and print what would be written, then stop."),
  }),
  run: async (config, { progress, signal, stdout }) => {
    const { layers, seed, standardDeviation, dryRun, ...rest } = config;
    const options: UpcycleOptions = {
      ...rest,
      noiseSeed: seed,
      router: { kind: "random", standardDeviation, seed },
      signal,
      ...(layers.length > 0 && { layers }),
    };
    const plan = await planUpcycle(options);
    for (const note of plan.notes) progress.warn(note);
    const reason = beyondTransformers(plan.config);
    if (reason) progress.warn(`transformers cannot compute this mixture (${reason}): Trefoil alone loads it`);
    stdout.write(describePlan(plan, [config.model]));
    if (dryRun) return;
    const stage = progress.stage("upcycle", { total: plan.bytes, unit: "bytes" });
    await upcycle({ ...options, onProgress: (done) => stage.update(done) });
    stage.succeed(`${formatBytes(plan.bytes)} in ${config.output}`);
  },
});
