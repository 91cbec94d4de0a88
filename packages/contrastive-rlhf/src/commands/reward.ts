import { defineCommand, loadTokenizer } from "@trefoil/core";
import { z } from "zod";
import { readPreferences } from "../data/index.js";
import { trainRewardModel } from "../stages/reward-model.js";
import { file, folder, outputFields, runOf, trainFields } from "./fields.js";
import { writeTrainingReport } from "./reports.js";

export const rewardCommand = defineCommand({
  name: "reward",
  summary: "Train a reward model on preferences.",
  description:
    "Reads JSONL rows with chosen and rejected, prompt (explicit, or their common beginning) and optional margin. Bradley–Terry loss, read at the last token; the result is a LlamaForSequenceClassification with one label.",
  examples: ["contrastive-rlhf reward --model models/sft --data preferences.jsonl --output models/reward"],
  schema: z.strictObject({
    model: folder("Folder of the policy whose weights the trunk starts from."),
    data: file("Preferences."),
    ...outputFields,
    heldOut: z
      .number()
      .min(0)
      .lt(1)
      .default(0.1)
      .describe(
        "Share of pairs, the last ones, kept to measure accuracy; a tenth costs training little. Where that is no pair, the training pairs are measured.",
      ),
    centre: z
      .number()
      .nonnegative()
      .default(0)
      .describe(
        "Coefficient of mean (r⁺ + r⁻)², which keeps rewards around 0; 0, because contrast needs none, 0.01 where a critic must fit them.",
      ),
    labelNoise: z
      .strictObject({
        kind: z.enum(["conservative", "robust"]).describe("Smoothed labels, or a loss that is unbiased under flips."),
        rate: z.number().min(0).lt(0.5).describe("Share of flipped labels."),
      })
      .optional()
      .describe("Known noise of the labels"),
    normalise: z
      .enum(["none", "mean", "mean-std"])
      .default("mean")
      .describe(
        "Normalise scores afterwards, over all responses of the data: to mean 0, which preferences leave open and a critic would have to learn, and if asked to standard deviation 1, which changes what β means.",
      ),
    train: trainFields({ steps: 300, learningRate: 1e-4, batch: 16 }).prefault({}),
  }),
  run: async (config, { progress, signal, stdout }) => {
    const { model, data, output, resume, overwrite, heldOut, centre, labelNoise, normalise, train: settings } = config;
    const preferences = await readPreferences(data, await loadTokenizer(model));
    const run = runOf(config);
    const options = {
      preferences,
      heldOut,
      centre,
      normalise,
      settings,
      output,
      run,
      resume,
      overwrite,
      progress,
      signal,
    };
    const result = await trainRewardModel({ from: model, ...options, ...(labelNoise && { labelNoise }) });
    await writeTrainingReport(run, "contrastive-rlhf reward", ["loss", "accuracy", "margin", "meanReward"], config);
    if (!result.heldOut) return;
    const { accuracy, margin, calibration, pairs, of } = result.heldOut;
    stdout.write(
      `accuracy ${accuracy.toFixed(3)}, margin ${margin.toFixed(3)}, mean σ(margin) ${calibration.toFixed(3)} on ${pairs} ${of} pairs\n`,
    );
    progress.log(`The reward model is in ${output}, the report in ${run}/report.html.`);
  },
});
