import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { ByteTokenizer, createModel, Generator, saveGguf } from "@trefoil/core";
import type { Case, LlamaTask } from "../measure/side.js";
import { forwardFlops, type ModelSize, modelConfig } from "./models.js";

interface GenerationTask {
  size: ModelSize;
  batch: number;
  prompt: number;
  newTokens: number;
  /** How matrices are stored, here and by the peers. */
  weights: "f32" | "bf16";
  /** The most likely token each time, which llama.cpp can do too; else draws at temperature 1. */
  greedy: boolean;
}

/** As many rows as make a product of weights in memory take longer than reading them. */
const manyRows = 16;

const matrixValues = (size: ModelSize): number => forwardFlops(size, 0, 0) / 2;

/** New tokens per second with a key-value cache, the prompts' own pass included. */
function generation(task: GenerationTask): Case {
  const { size, batch, prompt, newTokens, weights, greedy } = task;
  // Wide enough that logits are apart: greedy tokens are the same whoever rounds.
  const config = { ...modelConfig(size, 0, prompt + newTokens), ...(greedy ? { initializerRange: 0.1 } : {}) };
  const prompts = Array.from({ length: batch }, (_, row) =>
    Int32Array.from({ length: prompt }, (_, i) => (row + i * 7) % 251),
  );
  const llama: LlamaTask = {
    file: "",
    prompts: prompts.map((ids) => [...ids]),
    newTokens,
    expected: [],
    // With bf16 weights llama.cpp rounds what it multiplies by them as well.
    agreement: weights === "f32" ? { rows: batch, tokens: 4 } : { rows: batch / 2, tokens: 1 },
  };
  return {
    family: greedy ? "generation, greedy" : "generation",
    name: `${size} ${greedy ? `${weights} ` : ""}batch ${batch}, ${prompt}+${newTokens} tokens`,
    unit: "tokens/s",
    amount: batch * newTokens,
    // Every step reads all matrices; from some rows on multiplying takes longer.
    ...(batch < manyRows
      ? { bound: "memory", boundAmount: newTokens * matrixValues(size) * (weights === "f32" ? 4 : 2) }
      : { bound: "compute", boundAmount: batch * (prompt + newTokens) * forwardFlops(size, 0, prompt + newTokens) }),
    async open() {
      const model = createModel(config);
      const generator = new Generator(model, batch, prompt + newTokens, { weights });
      const generate = async () => {
        const rows = await generator.generate(prompts, { maxNewTokens: newTokens, temperature: greedy ? 0 : 1 });
        const made = rows.reduce((sum, { tokens }) => sum + tokens.length, 0);
        if (made !== batch * newTokens) throw new Error(`generated ${made} tokens instead of ${batch * newTokens}`);
        return rows;
      };
      const folder = greedy ? await mkdtemp(join(tmpdir(), "trefoil-bench-")) : undefined;
      if (folder) {
        llama.file = join(folder, "model.gguf");
        await saveGguf(model, llama.file, {
          tokenizer: new ByteTokenizer(),
          dtype: weights === "bf16" ? "BF16" : "F32",
        });
        llama.expected = (await generate()).map(({ tokens }) => [...tokens]);
      }
      return {
        side: {
          name: "trefoil",
          async run(repetitions) {
            const begun = performance.now();
            for (let i = 0; i < repetitions; i++) await generate();
            return { seconds: (performance.now() - begun) / 1000 / repetitions };
          },
        },
        details: { parameters: model.parameterCount() },
        async close() {
          generator.dispose();
          model.dispose();
          if (folder) await rm(folder, { recursive: true, force: true });
        },
      };
    },
    torch: { kernel: "generate", config, batch, prompt, new_tokens: newTokens, greedy, bf16: weights === "bf16" },
    ...(greedy ? { llama } : {}),
  };
}

export function generationCases(quick: boolean): Case[] {
  const sampled = { weights: "f32", greedy: false } as const;
  if (quick) {
    const tiny = { size: "tiny", batch: 2, prompt: 4, newTokens: 4 } as const;
    return [generation({ ...tiny, ...sampled }), generation({ ...tiny, weights: "bf16", greedy: true })];
  }
  const full = { size: "10m", prompt: 32, newTokens: 64 } as const;
  return [
    ...[1, 16, 64].map((batch) => generation({ ...full, batch, ...sampled })),
    ...[1, 16].flatMap((batch) =>
      (["f32", "bf16"] as const).map((weights) => generation({ ...full, batch, weights, greedy: true })),
    ),
  ];
}
