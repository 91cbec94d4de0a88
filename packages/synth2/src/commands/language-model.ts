import { defineCommand, loadTokenizer, trainBpe } from "@trefoil/core";
import { z } from "zod";
import { classedCaptions, languageSizesSchema, trainLanguageModel } from "../captions/index.js";
import { openDataset } from "../data/index.js";
import { classesField, readClasses } from "./classes.js";
import { count, dataField, folder, outputFields, runOf, trainFields } from "./fields.js";

export const languageModelCommand = defineCommand({
  name: "language-model",
  summary: "Train the small language model that writes captions, and that vlm builds on.",
  description:
    'A Llama learns the human captions, half of them behind a class of their picture ("red circle: a red disc"). The folder is a Hugging Face one; any other of the Llama family can stand in for it.',
  examples: ["synth2 language-model --data world:paired:2000 --output models/language"],
  schema: z.strictObject({
    data: dataField,
    classes: classesField.describe(
      "Text file of classes, one a line, that are looked for in captions; pictures of the built-in world have those of their scenes. Default: those of the built-in world.",
    ),
    tokenizerFrom: folder(
      "Folder whose tokenizer.json is taken, such as the generator's. Default: a new one.",
    ).optional(),
    vocabulary: count(512, "Tokens of a new vocabulary, at most.").meta({ unit: "tokens" }),
    ...outputFields,
    model: languageSizesSchema.prefault({}),
    train: trainFields({ steps: 1500, learningRate: 3e-3, batch: 32 }).prefault({}),
  }),
  run: async (config, { progress, signal }) => {
    const { model: sizes, train: settings, output, resume, overwrite, tokenizerFrom } = config;
    await using data = await openDataset(config.data);
    const captions = await classedCaptions(data.dataset, await readClasses(config.classes));
    const texts = captions.map(({ caption }) => caption);
    const tokenizer =
      tokenizerFrom === undefined
        ? await trainBpe(texts, { vocabSize: config.vocabulary })
        : await loadTokenizer(tokenizerFrom);
    const { completed } = await trainLanguageModel({
      ...{ captions, dataName: data.hash, tokenizer, sizes, settings, output, resume, overwrite, progress, signal },
      run: runOf(config),
    });
    if (completed) progress.log(`The language model is in ${output}.`);
  },
});
