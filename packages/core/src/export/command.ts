import { stat } from "node:fs/promises";
import { basename, resolve } from "node:path";
import { z } from "zod";
import { defineCommand } from "../cli/command.js";
import { UsageError } from "../cli/errors.js";
import { loadModel, saveGguf } from "../models/index.js";
import { loadTokenizer } from "../text/index.js";

/** `trefoil export`: a model folder as one file for llama.cpp. */
export const exportCommand = defineCommand({
  name: "export",
  summary: "Write a Llama or Mixtral folder as one GGUF file, which llama.cpp and what is built on it run.",
  description:
    "Takes what the recipes write (seeds, experts, mixtures, policies) and Hugging Face folders of these families. The tokenizer and its " +
    "chat template are written too; one that llama.cpp would apply differently is refused, as are routers other than Mixtral's. The model is loaded in F32.",
  examples: [
    "trefoil export --model models/finetuned --output finetuned.gguf",
    "trefoil export --model models/finetuned --output finetuned.gguf --dtype BF16 --overwrite",
  ],
  schema: z.strictObject({
    model: z.string().min(1).describe("Folder of the model.").meta({ placeholder: "folder" }),
    output: z.string().min(1).describe("File to write; it appears whole or not at all.").meta({ placeholder: "file" }),
    dtype: z
      .enum(["F32", "F16", "BF16"])
      .default("F32")
      .describe("Of matrices. F32 loses nothing, the others take half the space. Norms and routers are always F32."),
    overwrite: z.boolean().default(false).describe("Replace an existing file."),
  }),
  async run({ model: folder, output, dtype, overwrite }, { stdout }) {
    const there = await stat(output).catch(() => undefined);
    if (there?.isDirectory()) throw new UsageError("EXPORT_OUTPUT", `${output} is a folder: name a file in it`);
    if (there && !overwrite)
      throw new UsageError("EXPORT_OUTPUT", `${output} is there: give --overwrite to replace it`);
    const tokenizer = await loadTokenizer(folder);
    const { model } = await loadModel(folder);
    try {
      await saveGguf(model, output, { tokenizer, dtype, name: basename(resolve(folder)) });
    } finally {
      model.dispose();
    }
    const { size } = await stat(output);
    stdout.write(`${output}: ${(size / 1e6).toFixed(1)} MB\n`);
  },
});
