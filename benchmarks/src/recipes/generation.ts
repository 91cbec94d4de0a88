import { Generator } from "@trefoil/core";
import type { Case } from "../measure/side.js";
import { buildModel, disposeModel, type ModelSize, modelConfig } from "./models.js";

/** New tokens per second of sampling from a prompt with a key-value cache, the prompt's own pass included. */
function generation(size: ModelSize, batch: number, prompt: number, newTokens: number): Case {
  return {
    family: "generation",
    name: `${size} batch ${batch}, ${prompt}+${newTokens} tokens`,
    unit: "tokens/s",
    amount: batch * newTokens,
    async open() {
      const model = buildModel(size, 0, prompt + newTokens);
      const generator = new Generator(model, batch, prompt + newTokens);
      const prompts = Array.from({ length: batch }, (_, row) =>
        Int32Array.from({ length: prompt }, (_, i) => (row + i * 7) % 251),
      );
      return {
        side: {
          name: "trefoil",
          async run(repetitions) {
            const begun = performance.now();
            for (let i = 0; i < repetitions; i++) {
              const rows = await generator.generate(prompts, { maxNewTokens: newTokens, temperature: 1 });
              const made = rows.reduce((sum, { tokens }) => sum + tokens.length, 0);
              if (made !== batch * newTokens)
                throw new Error(`generated ${made} tokens instead of ${batch * newTokens}`);
            }
            return { seconds: (performance.now() - begun) / 1000 / repetitions };
          },
        },
        details: { parameters: model.parameterCount() },
        close() {
          generator.dispose();
          disposeModel(model);
        },
      };
    },
    torch: {
      kernel: "generate",
      config: modelConfig(size, 0, prompt + newTokens),
      batch,
      prompt,
      new_tokens: newTokens,
    },
  };
}

export const generationCases = (quick: boolean): Case[] =>
  quick ? [generation("tiny", 2, 4, 4)] : [1, 16, 64].map((batch) => generation("10m", batch, 32, 64));
