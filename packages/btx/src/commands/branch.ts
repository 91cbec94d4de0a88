import { existsSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { type CommandContext, defineCommand, loadTokenizer, requireFreeOutput, writeFileAtomic } from "@trefoil/core";
import { z } from "zod";
import { closeDomains } from "../domains/index.js";
import { requireContext } from "../stages/context.js";
import {
  branchScopes,
  branchStatus,
  domainsOfArrayJob,
  namesToTrain,
  requireDense,
  runBranchJobs,
  trainBranches,
  writeBranchPlan,
} from "../stages/index.js";
import { type DataConfig, dataFields, folder, openData, outputFields, runOf, trainFields } from "./fields.js";
import { writeTrainingReport } from "./training-report.js";

export const branchCommand = defineCommand({
  name: "branch",
  summary: "Train one expert per domain, each an independent copy of the seed.",
  description:
    "Experts do not need each other. Several at once on one machine: --jobs. On many: --only, or --array in a Slurm array, an indexed Kubernetes job or under mpirun; then collect their folders. Each is written to OUTPUT/DOMAIN. One that fails does not stop the others: --resume runs again what is not done. btx status shows where each is.",
  examples: [
    "btx branch --seed models/seed --output experts",
    "btx branch --seed models/seed --output experts --only code --train.steps 5000",
    "btx branch --seed models/seed --output experts --jobs 2 --resume",
    "srun btx branch --seed models/seed --output experts --array",
  ],
  schema: z.strictObject({
    seed: folder("Folder of the dense model that all experts start from."),
    ...outputFields,
    only: z.array(z.string()).default([]).describe("Train the experts of these domains only."),
    array: z
      .boolean()
      .default(false)
      .describe(
        "Train what this array job stands for: the domain of index SLURM_ARRAY_TASK_ID or JOB_COMPLETION_INDEX, from 0; or, of N ranks of mpirun, every Nth domain.",
      ),
    jobs: z
      .number()
      .int()
      .positive()
      .default(1)
      .describe("Branches trained at a time, each in a process with its share of the cores.")
      .meta({ unit: "processes" }),
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
    const { seed, output, resume, overwrite, array, jobs, replay, scope, train: settings } = config;
    const names = Object.keys(config.data.domains);
    const named = config.only.length > 0 ? config.only : names;
    const only = namesToTrain(names, array ? domainsOfArrayJob(named, process.env) : named);
    if (only.length === 0) {
      progress.log("There are more processes than domains: none is left for this one.");
      return;
    }
    const tokenizer = await loadTokenizer(seed);
    await requireDense(seed);
    await requireContext([seed], settings.sequence, "--train.sequence");
    const domains = await openData(config.data, tokenizer, signal);
    try {
      const options = { seed, domains, replay, scope, settings, output, run, resume, overwrite, progress, signal };
      const completed =
        jobs > 1 && only.length > 1
          ? await trainApart(only, { ...config, run }, { progress, signal })
          : await trainBranches({ ...options, only });
      if (completed) progress.log(`The experts are in ${output}, the report in ${run}/report.html.`);
    } finally {
      closeDomains(domains);
      const runs = Object.fromEntries(names.map((name) => [name, join(run, name)] as const));
      if (existsSync(run)) await writeTrainingReport(run, "btx branch", runs, config);
    }
  },
});

/** The command, once for each domain, on text that is tokenised already. */
async function trainApart(
  only: readonly string[],
  config: {
    jobs: number;
    run: string;
    output: string;
    resume: boolean;
    overwrite: boolean;
    train: { steps: number };
    data: DataConfig;
  },
  { progress, signal }: Pick<CommandContext, "progress" | "signal">,
): Promise<boolean> {
  const { run, output, resume, overwrite, data, train } = config;
  const wanted = only.filter((name) => !(resume && existsSync(join(output, name))));
  for (const name of wanted) requireFreeOutput({ output: join(output, name), run: join(run, name), overwrite });
  await writeBranchPlan(run, { output, domains: Object.keys(data.domains), steps: train.steps });
  // JSON is YAML: --config reads it.
  const settings = join(run, "branch.yaml");
  await writeFileAtomic(settings, `${JSON.stringify({ ...config, only: [], array: false, jobs: 1 }, null, 2)}\n`);
  const program = fileURLToPath(new URL("../../bin/btx.js", import.meta.url));
  const stage = progress.stage("branches", { total: wanted.length, unit: "branches" });
  const completed = await runBranchJobs({
    domains: wanted,
    jobs: config.jobs,
    command: [process.execPath, program, "branch", "--config", settings, "--quiet", "--only"],
    run,
    signal,
    onProgress: async (ended) => {
      const running = (await branchStatus(run)).filter(({ state }) => state === "running");
      stage.update(ended, Object.fromEntries(running.map(({ domain, step, steps }) => [domain, `${step}/${steps}`])));
    },
  });
  if (completed) stage.succeed();
  return completed;
}
