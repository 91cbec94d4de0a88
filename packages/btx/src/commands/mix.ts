import { defineCommand, loadTokenizer, requireFreeOutput } from "@trefoil/core";
import { z } from "zod";
import { closeDomains } from "../domains/index.js";
import { MixError, type MixOptions, type MixResult, mix, planMix } from "../mix/index.js";
import { requireContext } from "../stages/context.js";
import { mixWithRidgeRouter } from "../stages/index.js";
import { dataFields, folder, openData } from "./fields.js";
import { describeComparison, describeDivergence, describePlan } from "./mixture-text.js";
import { formatBytes } from "./quantities.js";

export const mixCommand = defineCommand({
  name: "mix",
  summary: "Merge dense checkpoints into one mixture-of-experts checkpoint.",
  description:
    "Takes Hugging Face Llama or Mistral folders that branched from one seed: their feed-forward layers become experts, everything else is averaged. Streams, so that memory does not grow with the model. Writes a folder that MixtralForCausalLM loads.",
  examples: [
    "btx mix --experts experts/code,experts/prose,models/seed --output models/mixture",
    "btx mix --experts experts/code,experts/prose --output models/mixture --router.kind ridge --data.domains.code @code --data.domains.prose @prose",
    "btx mix --experts experts/code,experts/prose --generalist models/seed --output models/mixture --layout fused",
    "btx mix --experts a,b,c --output mixture --arrange split --chunks 2 --experts-per-token 4 --dry-run",
  ],
  schema: z.strictObject({
    experts: z
      .array(z.string().min(1))
      .min(2)
      .describe("Folders of the checkpoints, in the order of the experts; the first gives the tokenizer.")
      .meta({ placeholder: "folders" }),
    generalist: folder("The seed, as one more expert: what it knows stays at hand unchanged.").optional(),
    names: z
      .array(z.string().min(1))
      .default([])
      .describe("Names of the experts; by default those of their folders.")
      .meta({ placeholder: "names" }),
    output: folder("Folder to write."),
    arrange: z
      .enum(["whole", "split", "blend"])
      .default("whole")
      .describe(
        "whole: one checkpoint, one expert; split: each cut into chunks, scaled so that all chunks together are it; blend: expert n is the n-th chunk of every checkpoint.",
      ),
    chunks: z.number().int().min(2).default(2).describe("Experts that split makes of each checkpoint."),
    layout: z
      .enum(["legacy", "fused"])
      .default("legacy")
      .describe("Names of the tensors. legacy: transformers and vLLM read it; fused: as transformers 5 holds them."),
    weights: z
      .array(z.number().nonnegative())
      .default([])
      .describe("Weight of each checkpoint in the average, the generalist last; equal by default."),
    expertsPerToken: z.number().int().positive().default(2).describe("Experts that each token visits."),
    router: z
      .discriminatedUnion("kind", [
        z.strictObject({
          kind: z.literal("random").describe("Random normal weights, to be finetuned."),
          standardDeviation: z
            .number()
            .nonnegative()
            .default(0.02)
            .describe("Standard deviation of the router's weights."),
          seed: z.number().int().nonnegative().default(0).describe("The same seed gives the same router."),
        }),
        z.strictObject({
          kind: z
            .literal("ridge")
            .describe("Ridge regression of the domain on the router's input: a useful router without training."),
          lambda: z
            .number()
            .positive()
            .default(1e-3)
            .describe("Regularisation, as a share of the mean square of the inputs."),
          sharpness: z
            .number()
            .positive()
            .default(4)
            .describe("Factor on the solution; a larger one makes routing more decided."),
          tokens: z
            .number()
            .int()
            .positive()
            .default(65_536)
            .describe("Text read of each domain.")
            .meta({ unit: "tokens" }),
          sequence: z.number().int().min(2).default(256).describe("Tokens of a row.").meta({ unit: "tokens" }),
        }),
      ])
      .default({ kind: "random", standardDeviation: 0.02, seed: 0 }),
    data: dataFields
      .prefault({})
      .describe(
        "For the ridge router: a domain belongs to the expert whose folder has its name; experts without one are generalists.",
      ),
    outputDtype: z
      .enum(["auto", "F32", "BF16", "F16"])
      .default("auto")
      .describe("Dtype of the tensors; auto: as in the checkpoints, F32 where they differ."),
    shardSize: z.number().positive().default(5e9).describe("Largest weight file.").meta({ unit: "bytes" }),
    routerAuxLossCoef: z
      .number()
      .nonnegative()
      .default(0.01)
      .describe("Coefficient of the balancing loss, written to config.json for those who train on."),
    overwrite: z.boolean().default(false).describe("Replace an existing output."),
    dryRun: z.boolean().default(false).describe("Check everything and print what would be written, then stop."),
  }),
  run: async (config, { progress, signal, stdout }) => {
    const { experts, generalist, names, output, weights, expertsPerToken, router, outputDtype, shardSize } = config;
    const { arrange, chunks, layout, routerAuxLossCoef, overwrite } = config;
    const options: MixOptions = {
      experts,
      output,
      expertsPerToken,
      outputDtype,
      layout,
      arrange: arrange === "split" ? { kind: arrange, chunks } : { kind: arrange },
      shardBytes: shardSize,
      routerAuxLossCoef,
      overwrite,
      signal,
      ...(generalist !== undefined && { generalist }),
      ...(names.length > 0 && { names }),
      ...(weights.length > 0 && { weights }),
    };
    const folders = [...experts, ...(generalist === undefined ? [] : [generalist])];
    const plan = await planMix(options);
    for (const note of plan.notes) progress.warn(note);
    stdout.write(describePlan(plan, folders));
    if (config.dryRun) {
      stdout.write(describeComparison(plan, folders));
      return;
    }
    const stage = progress.stage("mix", { total: plan.bytes, unit: "bytes" });
    const onProgress = (done: number) => stage.update(done);
    let result: MixResult;
    if (router.kind === "random") result = await mix({ ...options, router, onProgress });
    else {
      requireFreeOutput({ output, overwrite });
      await requireContext(experts, router.sequence, "--router.sequence");
      const domains = await openData(config.data, await loadTokenizer(experts[0]!), signal);
      try {
        const texts = domains.flatMap(({ name, train: file }) => {
          const expert = plan.arrangement.experts.findIndex((each) => each.name === name);
          return expert < 0 ? [] : [{ file, expert }];
        });
        if (texts.length === 0) {
          const names = plan.arrangement.experts.map(({ name }) => name).join(", ");
          throw new MixError(
            "MIX_OPTIONS",
            `the ridge router needs text of at least one expert: the experts are ${names}, the domains ${domains.map(({ name }) => name).join(", ")}; name domains as their experts, or experts by --names`,
          );
        }
        result = await mixWithRidgeRouter({ ...options, onProgress }, texts, { ...router, batch: 8, signal });
      } finally {
        closeDomains(domains);
      }
    }
    stage.succeed(`${formatBytes(plan.bytes)} in ${output}`);
    stdout.write(describeDivergence(result, folders));
  },
});
