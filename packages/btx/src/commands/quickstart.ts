import { existsSync } from "node:fs";
import { join } from "node:path";
import { balanceForms, defineCommand, openRunDirectory, RUN_LAYOUT, sameConfig } from "@trefoil/core";
import { z } from "zod";
import { branchScopes, quickstart } from "../stages/index.js";
import { dataFields, fitsContext, folder, modelFields, size, steps } from "./fields.js";
import { writeQuickstartReport } from "./quickstart-report.js";
import { scoresTable } from "./scores.js";

const rate = (value: number) => z.number().positive().default(value).describe("Peak learning rate.");
const { domains, heldOut, maxBytes, roots } = dataFields.shape;

export const quickstartCommand = defineCommand({
  name: "quickstart",
  summary: "The whole method in about two minutes: seed, branches, mixture, finetuning, and what each is worth.",
  description:
    "Trains a small seed on TypeScript and JavaScript sources, on English prose from Markdown documents, both found under node_modules, and on generated arithmetic; branches it into experts, mixes them with the seed as a generalist, finetunes the mixture, and compares all on text that none was trained on.",
  examples: [
    "btx quickstart",
    "btx quickstart --run runs/mine --resume",
    "btx quickstart --branch.scope all --router.kind random",
  ],
  schema: z
    .strictObject({
      run: folder("Run directory for text, models, metrics and the report. Default: runs/quickstart-TIME.").optional(),
      resume: z.boolean().default(false).describe("Continue where the run in --run stopped."),
      data: z.strictObject({ domains, heldOut, maxBytes, roots }).prefault({}),
      model: modelFields({
        hiddenSize: 128,
        intermediateSize: 352,
        layers: 3,
        heads: 4,
        keyValueHeads: 4,
        maxPositions: 256,
      }).prefault({}),
      train: z
        .strictObject({
          batch: size(8, "Rows of a batch."),
          sequence: size(128, "Tokens of a row."),
          seed: z.number().int().nonnegative().default(0).describe("Initial weights and order of the data."),
          checkpointEvery: size(100, "Steps between checkpoints."),
        })
        .prefault({}),
      seed: z.strictObject({ steps: steps(700), learningRate: rate(4e-3) }).prefault({}),
      branch: z
        .strictObject({
          steps: steps(500),
          learningRate: rate(2e-3),
          replay: z.number().min(0).lt(1).default(0.1).describe("Share of rows from the other domains."),
          scope: z
            .enum(branchScopes)
            .default("feed-forward")
            .describe("What of a branch is trained; the paper trains all."),
        })
        .prefault({}),
      router: z
        .discriminatedUnion("kind", [
          z.strictObject({ kind: z.literal("random").describe("As in the paper.") }),
          z.strictObject({
            kind: z.literal("ridge").describe("Ridge regression of the domain on the router's input."),
            lambda: z
              .number()
              .positive()
              .default(1e-3)
              .describe("Regularisation, as a share of the mean square of the inputs."),
            sharpness: z.number().positive().default(4).describe("Factor on the solution."),
            tokens: size(32_768, "Text read of each domain."),
          }),
        ])
        .default({ kind: "ridge", lambda: 1e-3, sharpness: 4, tokens: 32_768 }),
      finetune: z
        .strictObject({
          steps: steps(500),
          learningRate: rate(2e-3),
          form: z.enum(balanceForms).default("btx").describe("Form of the balancing loss."),
          coefficient: z.number().nonnegative().default(0.01).describe("Coefficient of the balancing loss, per layer."),
        })
        .prefault({}),
      windows: size(64, "Held-out windows of each domain."),
      problems: z.number().int().nonnegative().default(200).describe("Held-out arithmetic problems."),
    })
    .refine(({ model, train }) => train.sequence <= model.maxPositions, fitsContext(["train", "sequence"])),
  run: async (config, { progress, signal, stdout, version }) => {
    const began = performance.now();
    const { run: directory, resume, ...settings } = config;
    const { data, model: sizes, train, ...stages } = settings;
    const name = "quickstart";
    const isRun = directory !== undefined && existsSync(join(directory, RUN_LAYOUT.config));
    await using run = await openRunDirectory({
      name,
      directory,
      resume: resume && isRun,
      config: settings,
      accept: sameConfig(settings),
      versions: { btx: version },
    });
    progress.log(`Everything goes to ${run.path}; stopped with Ctrl-C, it goes on with --run ${run.path} --resume`);
    const results = await quickstart({
      run: run.path,
      resume,
      domains: data.domains,
      heldOutShare: data.heldOut,
      maxBytes: data.maxBytes,
      ...(data.roots.length > 0 && { roots: data.roots }),
      sizes,
      train: { ...train, warmupSteps: 20, weightDecay: 0.1, clipNorm: 1, keepCheckpoints: 1 },
      ...stages,
      progress,
      signal,
    });
    if (!results) return;
    await writeQuickstartReport(run.path, results, config);
    stdout.write(`\n${scoresTable(results.scores)}\n`);
    progress.log(`Report: ${run.report}  (${((performance.now() - began) / 1000).toFixed(0)} s)`);
  },
});
