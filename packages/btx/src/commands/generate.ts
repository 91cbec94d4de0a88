import { defineCommand, generate } from "@trefoil/core";
import { z } from "zod";
import { OpenModel, StageError } from "../stages/index.js";
import { folder } from "./fields.js";

export const generateCommand = defineCommand({
  name: "generate",
  summary: "Continue a prompt with any of the models.",
  examples: [
    'btx generate --model models/finetuned --prompt "34+52="',
    'btx generate --model models/finetuned --prompt "export function " --temperature 0.8',
  ],
  schema: z.strictObject({
    model: folder("Folder of a dense model or a mixture."),
    prompt: z.string().min(1).describe("Text to continue."),
    maxNewTokens: z.number().int().positive().default(200).describe("Tokens to add at most.").meta({ unit: "tokens" }),
    temperature: z.number().nonnegative().default(0).describe("Sampling temperature; 0: always the most likely token."),
    topK: z.number().int().nonnegative().default(0).describe("Sample from the K most likely tokens; 0: from all."),
    topP: z
      .number()
      .gt(0)
      .max(1)
      .default(1)
      .describe("Sample from the most likely tokens that together have this probability."),
    seed: z.number().int().nonnegative().default(0).describe("The same seed draws the same tokens."),
  }),
  run: async ({ model: path, prompt, maxNewTokens, ...sampling }, { signal, stdout }) => {
    using opened = await OpenModel.open(path);
    const { model, tokenizer, config } = opened;
    const ids = tokenizer.encode(prompt);
    const room = config.maxPositions - ids.length;
    if (room < 1)
      throw new StageError(
        "BTX_OPTIONS",
        `the prompt has ${ids.length} tokens, the model ${config.maxPositions} positions: shorten it`,
      );
    stdout.write(prompt);
    const tokens: number[] = [];
    let shown = "";
    await generate(model, [ids], {
      maxNewTokens: Math.min(maxNewTokens, room),
      eosTokenIds: config.eosTokenIds,
      ...sampling,
      signal,
      onToken: (_, token) => {
        tokens.push(token);
        const text = tokenizer.decode(tokens);
        // A character may take several tokens: its first bytes decode to U+FFFD until the rest has come.
        if (text.endsWith("\uFFFD")) return;
        stdout.write(text.slice(shown.length));
        shown = text;
      },
    });
    stdout.write("\n");
  },
});
