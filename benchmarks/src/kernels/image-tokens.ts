import { maskedDiffusionStep, Parameter, vqLookup } from "@trefoil/core";
import { openProgram, uniform } from "../measure/program.js";
import type { Case } from "../measure/side.js";

function lookup(rows: number, width: number, codes: number): Case {
  return {
    family: "vq lookup",
    name: `${rows}x${width}, ${codes} codes`,
    unit: "GFLOP/s",
    // The inner products of all rows with all codes.
    amount: 2 * rows * width * codes,
    bound: "compute",
    async open() {
      const [x, codebook] = [uniform(rows, width), uniform(codes, width)];
      return openProgram([x, codebook], () => vqLookup(x, codebook).index, ["vq_lookup"]);
    },
    torch: { kernel: "vq_lookup", rows, width, codes },
  };
}

interface Step {
  batch: number;
  /** Tokens of a sequence, every second of them masked. */
  positions: number;
  vocabulary: number;
  topK: number;
  topP: number;
}

/** One step of masked decoding with guidance: sample what is masked, keep the confident half of it. */
function maskedStep(name: string, { batch, positions, vocabulary, topK, topP }: Step): Case {
  return {
    family: "masked diffusion step",
    name: `${name} ${batch}x${positions}x${vocabulary}`,
    unit: "tokens/s",
    amount: (batch * positions) / 2,
    async open() {
      const [logits, unconditional] = [uniform(batch, positions, vocabulary), uniform(batch, positions, vocabulary)];
      const whole = (shape: number[], data: Int32Array) => new Parameter(shape, { data, trainable: false });
      const known = Int32Array.from({ length: batch * positions }, (_, i) =>
        i % 2 === 0 ? vocabulary : i % vocabulary,
      );
      const tokens = whole([batch, positions], known);
      const remaining = whole([batch], new Int32Array(batch).fill(Math.floor(positions / 4)));
      const state = whole([4], new Int32Array(4));
      // Guidance, temperature, noise.
      const controls = new Parameter([3], { data: Float32Array.of(2, 1, 1), trainable: false });
      const inputs = { logits, unconditional, tokens, remaining, controls };
      return openProgram(
        [logits, unconditional, tokens, remaining, state, controls],
        () => maskedDiffusionStep(inputs, { maskToken: vocabulary, topK, topP }, state).tokens,
        ["masked_diffusion_step"],
      );
    },
    torch: { kernel: "masked_diffusion_step", batch, positions, vocabulary, top_k: topK, top_p: topP },
  };
}

/** What an image tokenizer and a masked generator add: the nearest code, and a step of parallel decoding. */
export function imageTokenCases(quick: boolean): Case[] {
  if (quick)
    return [lookup(64, 16, 32), maskedStep("plain", { batch: 1, positions: 16, vocabulary: 32, topK: 0, topP: 1 })];
  const size = { batch: 8, positions: 256, vocabulary: 1024 };
  return [
    lookup(1024, 64, 1024),
    lookup(4096, 256, 8192),
    maskedStep("plain", { ...size, topK: 0, topP: 1 }),
    maskedStep("top-k 50, top-p 0.95", { ...size, topK: 50, topP: 0.95 }),
  ];
}
