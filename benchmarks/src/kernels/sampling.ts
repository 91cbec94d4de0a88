import { RandomGenerator, type SamplingOptions } from "@trefoil/core";
import { openProgram, uniform } from "../measure/program.js";
import type { Case } from "../measure/side.js";

function sampling(batch: number, vocabulary: number, name: string, options: Required<SamplingOptions>): Case {
  const { temperature, topK, topP } = options;
  return {
    family: "token sampling",
    name: `${name} ${batch}x${vocabulary}`,
    unit: "tokens/s",
    amount: batch,
    async open() {
      const logits = uniform(batch, vocabulary);
      const random = new RandomGenerator(0);
      return openProgram([logits, random.state], () => random.sampleTokens(logits, options).token, ["sample_tokens"]);
    },
    torch: { kernel: "sample_tokens", batch, vocabulary, temperature, top_k: topK, top_p: topP },
  };
}

/** Drawing tokens from logits: the best one, all of them, and the usual filters. */
export function samplingCases(quick: boolean): Case[] {
  const [batch, vocabulary] = quick ? [2, 512] : [16, 32_000];
  return [
    sampling(batch!, vocabulary!, "greedy", { temperature: 0, topK: 0, topP: 1 }),
    sampling(batch!, vocabulary!, "plain", { temperature: 1, topK: 0, topP: 1 }),
    sampling(batch!, vocabulary!, "top-k 50, top-p 0.95", { temperature: 0.8, topK: 50, topP: 0.95 }),
  ];
}
