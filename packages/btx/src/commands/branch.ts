import { existsSync } from "node:fs";
import { join } from "node:path";
import { defineCommand, loadTokenizer } from "@trefoil/core";
import { z } from "zod";
import { closeDomains } from "../domains/index.js";
import { branchScopes, trainBranches } from "../stages/index.js";
import { dataFields, folder, openData, outputFields, runOf, trainFields } from "./fields.js";
import { writeTrainingReport } from "./training-report.js";

export const branchCommand = defineCommand({
  name: "branch",
  summary: "Train one expert per domain, each an independent copy of the seed.",
  description:
    "Experts do not need each other: train them on different machines with --only, then collect their folders. Each is written to OUTPUT/DOMAIN.",
  examples: [
    "btx branch --seed models/seed --output experts",
    "btx branch --seed models/seed --output experts --only code --train.steps 5000",
  ],
  schema: z.strictObject({
    seed: folder("Folder of the dense model that all experts start from."),
    ...outputFields,
    only: z.array(z.string()).default([]).describe("Train the experts of these domains only."),
    replay: z
      .number()
      .min(0)
      .lt(1)
      .default(0.1)
      .describe("Share of rows from the other domains, so that an expert keeps what the seed knew."),
    scope: z
      .enum(branchScopes)
      .default("all")
      .describe(
        "What is trained: all, as in the paper; or the feed-forward layers, so that averaging the rest loses nothing.",
      ),
    data: dataFields.prefault({}),
    train: trainFields({ steps: 500, learningRate: 1e-3 }).prefault({}),
  }),
  run: async (config, { progress, signal }) => {
    const run = runOf(config);
    const { seed, output, resume, overwrite, only, replay, scope, train: settings } = config;
    const domains = await openData(config.data, await loadTokenizer(seed), signal);
    try {
      const options = { seed, domains, replay, scope, settings, output, run, resume, overwrite, progress, signal };
      const completed = await trainBranches({ ...options, ...(only.length > 0 && { only }) });
      const trained = domains
        .map(({ name }) => [name, join(run, name)] as const)
        .filter(([, path]) => existsSync(path));
      await writeTrainingReport(run, "btx branch", Object.fromEntries(trained), config);
      if (completed) progress.log(`The experts are in ${output}, the report in ${run}/report.html.`);
    } finally {
      closeDomains(domains);
    }
  },
});
