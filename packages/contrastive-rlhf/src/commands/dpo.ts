import { defineCommand, loadTokenizer } from "@trefoil/core";
import { z } from "zod";
import { readPreferences } from "../data/index.js";
import { dpo } from "../stages/index.js";
import { file, folder, outputFields, runOf, trainFields } from "./fields.js";
import { writeTrainingReport } from "./reports.js";

export const dpoCommand = defineCommand({
  name: "dpo",
  summary: "Train a policy on preferences directly (DPO): the control without reward model.",
  description:
    "Both rewards falling while their margin rises is what DPO does; watch rewards/margins and logps/chosen.",
  examples: ["contrastive-rlhf dpo --policy models/sft --data preferences.jsonl --output models/dpo"],
  schema: z.strictObject({
    policy: folder("Folder of the SFT policy: start and reference."),
    data: file("Preferences."),
    ...outputFields,
    beta: z.number().positive().default(0.1).describe("Pull towards the reference; 0.1 is the paper's."),
    loss: z
      .enum(["sigmoid", "conservative", "robust", "ipo"])
      .default("sigmoid")
      .describe(
        "sigmoid is DPO as published; conservative and robust expect flipped labels; ipo has a bounded margin.",
      ),
    flips: z
      .number()
      .min(0)
      .lt(0.5)
      .default(0.1)
      .describe("Share of flipped labels that conservative and robust expect; a tenth where nothing is known."),
    train: trainFields({ steps: 200, learningRate: 5e-5, batch: 16 }).prefault({}),
  }),
  run: async (config, { progress, signal }) => {
    const { policy, data, output, resume, overwrite, beta, loss, flips, train: settings } = config;
    const preferences = await readPreferences(data, await loadTokenizer(policy));
    const form = loss === "conservative" || loss === "robust" ? { kind: loss, rate: flips } : { kind: loss };
    const run = runOf(config);
    const completed = await dpo({
      policy,
      preferences,
      beta,
      form,
      settings,
      output,
      run,
      resume,
      overwrite,
      progress,
      signal,
    });
    const shown = [
      "loss",
      "rewards/margins",
      "rewards/accuracies",
      "rewards/chosen",
      "rewards/rejected",
      "logps/chosen",
      "logps/rejected",
    ];
    await writeTrainingReport(run, "contrastive-rlhf dpo", shown, config);
    if (completed) progress.log(`The policy is in ${output}, the report in ${run}/report.html.`);
  },
});
