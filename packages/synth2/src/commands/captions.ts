import { join } from "node:path";
import { defineCommand, writeFileAtomic } from "@trefoil/core";
import { z } from "zod";
import {
  CommandSource,
  compareCaptions,
  LanguageModel,
  ModelSource,
  type ModelSourceOptions,
  rejectionSummary,
  writeCaptions,
} from "../captions/index.js";
import { openDataset } from "../data/index.js";
import { SynthError } from "../errors.js";
import { captionsOf } from "../generator/index.js";
import { classesField, readClasses } from "./classes.js";
import { count, dataField, folder, seedField } from "./fields.js";

export const captionsCommand = defineCommand({
  name: "captions",
  summary: "Write captions of classes drawn at random, with a language model or a program.",
  description:
    "Classes are drawn uniformly, so that the captions are balanced where human ones are not (Synth², arXiv 2403.07750). Captions that repeat another, are too short or too long, or do not follow the grammar are rejected and counted. A run that was stopped continues when the command is given again.",
  examples: ["synth2 captions --language-model models/language --count 2000 --grammar world --output data/captions"],
  schema: z.strictObject({
    languageModel: folder("Language model: the built-in one, or a Hugging Face folder with --prompt.").optional(),
    command: z
      .string()
      .min(1)
      .describe(
        'Program instead of a model, run by the shell for each batch: reads {"class","index","seed"} a line, answers each with {"caption"}.',
      )
      .optional(),
    timeout: count(300, "Time for a batch, after which the program is stopped.").meta({ unit: "seconds" }),
    prompt: z.string().min(1).describe("Prompt in which {class} stands for the class. Default: {class}:").optional(),
    classes: classesField,
    count: count(1000, "Captions to write."),
    output: folder("Folder of captions.jsonl."),
    compare: dataField.describe("Human captions to compare with, in diversity.json.").optional(),
    minWords: count(2, "Shortest caption.").meta({ unit: "words" }),
    maxWords: count(25, "Longest caption.").meta({ unit: "words" }),
    grammar: z.enum(["none", "world"]).default("none").describe("world: what its grammar does not know is rejected."),
    duplicates: z.boolean().default(false).describe("Allow captions to repeat."),
    attempts: count(20, "Tries per caption, after which the writer is given up."),
    batch: count(32, "Captions written at a time."),
    maxTokens: count(32, "Tokens of a caption at most.").meta({ unit: "tokens" }),
    temperature: z.number().nonnegative().default(1).describe("Sampling temperature."),
    topK: z.number().int().nonnegative().default(0).describe("Sample from the K most likely tokens; 0: from all."),
    topP: z
      .number()
      .gt(0)
      .max(1)
      .default(0.95)
      .describe("Sample from the most likely tokens that together have this probability."),
    seed: seedField.describe("Classes and sampling."),
  }),
  run: async (config, { progress, signal }) => {
    const { output, count: wanted, minWords, maxWords, grammar, duplicates, attempts, seed } = config;
    const classes = await readClasses(config.classes);
    await using compared = config.compare === undefined ? undefined : await openDataset(config.compare);
    using language = config.languageModel === undefined ? undefined : await LanguageModel.open(config.languageModel);
    await using source = captionSource(config, classes, language);
    const filter = { minWords, maxWords, grammar, duplicates };
    const written = await writeCaptions({
      ...{ source, classes, count: wanted, output, filter, seed, attempts, progress, signal },
    });
    if (!written.completed) return;
    progress.log(`${written.captions.length} captions are in ${output} (${rejectionSummary(written.rejected)}).`);
    if (!compared) return;
    const report = compareCaptions(written.captions, await captionsOf(compared.dataset));
    await writeFileAtomic(join(output, "diversity.json"), `${JSON.stringify(report, null, 2)}\n`);
    const [ours, human] = [report.written, report.human];
    progress.log(
      `Entropy of clusters ${ours.clusterEntropy.toFixed(2)} nats, human captions ${human.clusterEntropy.toFixed(2)}.`,
    );
  },
});

interface SourceFields extends ModelSourceOptions {
  command?: string | undefined;
  timeout: number;
}

function captionSource(config: SourceFields, classes: readonly string[], language: LanguageModel | undefined) {
  const { command, timeout: timeoutSeconds, batch, maxTokens, temperature, topK, topP, prompt } = config;
  if ((command === undefined) === (language === undefined)) {
    throw new SynthError("SYNTH_OPTIONS", "give --language-model or --command, one of them");
  }
  if (language) return new ModelSource(language, classes, { batch, maxTokens, temperature, topK, topP, prompt });
  return new CommandSource({ command: command!, batch, timeoutSeconds });
}
