import { createInterface } from "node:readline/promises";
import { defineCommand, type Progress } from "@trefoil/core";
import { z } from "zod";
import { RlhfError } from "../errors.js";
import { chat } from "../stages/index.js";
import { count, folder, seed } from "./fields.js";

export const chatCommand = defineCommand({
  name: "chat",
  summary: "Talk to a policy: prompts from the terminal or a pipe, one per line.",
  description:
    "With a chat template the conversation continues from line to line; without one every line is a prompt of its own. An empty line starts a new conversation.",
  examples: ["contrastive-rlhf chat --policy models/ppo", "echo 'bghj=' | contrastive-rlhf chat --policy models/ppo"],
  schema: z.strictObject({
    policy: folder("Folder of the policy."),
    temperature: z.number().min(0).default(1).describe("Sampling temperature; 0 is greedy, 1 is what was trained."),
    topP: z
      .number()
      .gt(0)
      .max(1)
      .default(1)
      .describe("Sample from the smallest set of tokens with this probability; 1: from all, as in training."),
    maxNewTokens: count(128, "Length of a response, at most.").meta({ unit: "tokens" }),
    seed: seed.describe("Seed of the first response; each further one adds 1."),
  }),
  run: async (config, { signal, stdout, progress }) => {
    using conversation = await chat(config);
    const interactive = process.stdin.isTTY === true;
    const lines = createInterface({
      input: process.stdin,
      ...(interactive && { output: process.stderr, prompt: "> " }),
    });
    signal.addEventListener("abort", () => lines.close());
    const answer = async (line: string): Promise<void> => {
      await conversation.reply(line, { signal, onText: (text) => stdout.write(text) });
      stdout.write("\n");
    };
    try {
      if (interactive) lines.prompt();
      for await (const line of lines) {
        if (line.trim() === "") conversation.reset();
        else if (!interactive) await answer(line);
        else await answer(line).catch((error: unknown) => warnTooLong(error, progress));
        if (interactive) lines.prompt();
      }
    } finally {
      // Standard input, which may stay open, would keep the process.
      lines.close();
    }
  },
});

/** Whoever talks can go on after a text that does not fit, or starts anew. */
function warnTooLong(error: unknown, progress: Progress): void {
  if (!(error instanceof RlhfError) || error.code !== "RLHF_DATA") throw error;
  progress.warn(`${error.message}; an empty line starts a new conversation`);
}
