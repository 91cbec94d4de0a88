import { ByteTokenizer, defineCommand, type LlamaSizes, loadTokenizer } from "@trefoil/core";
import { z } from "zod";
import { readDemonstrations } from "../data/index.js";
import { RlhfError } from "../errors.js";
import { sft } from "../stages/index.js";
import { count, file, folder, outputFields, runOf, trainFields } from "./fields.js";
import { writeTrainingReport } from "./reports.js";

export const sftCommand = defineCommand({
  name: "sft",
  summary: "Fine-tune a policy on demonstrations, or train a small one from scratch.",
  description:
    "Reads JSONL rows with prompt and completion (or chosen), texts or chat messages. The loss is on responses and their end; the result is where the reward model, the baselines and PPO start.",
  examples: ["contrastive-rlhf sft --model models/base --data demonstrations.jsonl --output models/sft"],
  schema: z.strictObject({
    model: folder("Folder to start from. Without it a small Llama is made, of the sizes in new.").optional(),
    data: file("Demonstrations."),
    ...outputFields,
    trainOnPrompts: z
      .boolean()
      .default(false)
      .describe("Also learn the tokens of prompts; off, because the policy never writes them."),
    new: z
      .strictObject({
        tokenizer: folder("Folder with tokenizer.json. Default: bytes.").optional(),
        hiddenSize: count(128, "Width; with these sizes a model trains in minutes on a CPU."),
        intermediateSize: count(352, "Width of the feed-forward layers; 2.75 times the width, as in Llama."),
        layers: count(3, "Layers; see hiddenSize."),
        heads: count(4, "Attention heads, of 32 numbers each."),
        keyValueHeads: count(
          4,
          "Heads of keys and values, of which heads is a multiple; as many, as small caches need no fewer.",
        ),
        maxPositions: count(512, "Longest context, prompt and response; longer costs nothing until it is used.").meta({
          unit: "tokens",
        }),
      })
      .describe("Sizes of a policy made from scratch")
      .prefault({}),
    train: trainFields({ steps: 300, learningRate: 1e-4, batch: 16 }).prefault({}),
  }),
  run: async (config, { progress, signal }) => {
    const { model, data, output, resume, overwrite, trainOnPrompts, train: settings } = config;
    const { tokenizer: folderOfTokenizer, ...sizes } = config.new;
    if (model === undefined) requireSizes(sizes);
    const source = model ?? folderOfTokenizer;
    const tokenizer = source === undefined ? new ByteTokenizer() : await loadTokenizer(source);
    const demonstrations = await readDemonstrations(data, tokenizer);
    const run = runOf(config);
    const options = { demonstrations, trainOnPrompts, settings, output, run, resume, overwrite, progress, signal };
    const completed = await sft({ from: model ?? { tokenizer, ...sizes }, ...options });
    await writeTrainingReport(run, "contrastive-rlhf sft", ["loss", "gradNorm", "learningRate"], config);
    if (completed) progress.log(`The policy is in ${output}, the report in ${run}/report.html.`);
  },
});

/** @throws RlhfError `RLHF_OPTIONS` for sizes that do not fit together */
function requireSizes({ hiddenSize, heads, keyValueHeads }: LlamaSizes): void {
  // Rotary embeddings turn the numbers of a head in pairs.
  if (hiddenSize % (2 * heads) !== 0)
    throw new RlhfError("RLHF_OPTIONS", `new.hiddenSize ${hiddenSize} is not an even multiple of new.heads ${heads}`);
  if (heads % keyValueHeads !== 0)
    throw new RlhfError("RLHF_OPTIONS", `new.heads ${heads} is not a multiple of new.keyValueHeads ${keyValueHeads}`);
}
