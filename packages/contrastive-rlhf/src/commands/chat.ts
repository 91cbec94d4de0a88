import { createInterface } from "node:readline/promises";
import { ChatTemplate, defineCommand, Generator } from "@trefoil/core";
import { z } from "zod";
import { type ChatMessage, EpisodeEncoder } from "../data/index.js";
import { OpenPolicy } from "../models/index.js";
import { count, folder, seed } from "./fields.js";

export const chatCommand = defineCommand({
  name: "chat",
  summary: "Talk to a policy: prompts from the terminal or a pipe, one per line.",
  description:
    "With a chat template the conversation goes on from line to line; without one every line is a prompt of its own. An empty line starts afresh.",
  examples: ["contrastive-rlhf chat --policy models/ppo", "echo 'bghj=' | contrastive-rlhf chat --policy models/ppo"],
  schema: z.strictObject({
    policy: folder("Folder of the policy."),
    temperature: z.number().min(0).default(1).describe("0 is greedy."),
    topP: z.number().gt(0).max(1).default(1).describe("Sample from the smallest set of tokens with this probability."),
    maxNewTokens: count(128, "Length of a response, at most.").meta({ unit: "tokens" }),
    seed: seed.describe("Of the first response; each further one adds 1."),
  }),
  run: async (config, { signal, stdout }) => {
    const { temperature, topP, maxNewTokens } = config;
    using policy = await OpenPolicy.open(config.policy);
    const { model, tokenizer, eosTokenIds } = policy;
    using generator = new Generator(model, 1, model.config.maxPositions);
    const encoder = new EpisodeEncoder(tokenizer, eosTokenIds, model.config.maxPositions);
    const template = ChatTemplate.of(tokenizer);
    const interactive = process.stdin.isTTY === true;
    const lines = createInterface({
      input: process.stdin,
      ...(interactive && { output: process.stderr, prompt: "> " }),
    });
    signal.addEventListener("abort", () => lines.close());
    let history: ChatMessage[] = [];
    let next = config.seed;
    if (interactive) lines.prompt();
    for await (const line of lines) {
      if (line.trim() === "") history = [];
      else {
        history = template ? [...history, { role: "user", content: line }] : [];
        const prompt = template ? template.render(history, true) : line;
        const tokens = encoder.prompt({ line: 1, prompt, templated: template !== undefined, row: {} }, maxNewTokens);
        // A character may take several tokens: what is printed is what the whole says more than before.
        const drawn: number[] = [];
        let printed = "";
        const onToken = (_: number, token: number): void => {
          drawn.push(token);
          const text = tokenizer.decode(drawn);
          if (text.endsWith("\ufffd") || !text.startsWith(printed)) return;
          stdout.write(text.slice(printed.length));
          printed = text;
        };
        const options = { maxNewTokens, temperature, topP, eosTokenIds, seed: next++, signal, onToken };
        const [answer] = await generator.generate([tokens], options);
        stdout.write("\n");
        history.push({ role: "assistant", content: tokenizer.decode(answer!.tokens) });
      }
      if (interactive) lines.prompt();
    }
  },
});
