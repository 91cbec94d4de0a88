import { gradients, linearCrossEntropy } from "@trefoil/core";
import { integers, openProgram, uniform } from "../measure/program.js";
import type { Case } from "../measure/side.js";

/** Softmax cross-entropy fused with the output projection, forward and backward. */
function fused(tokens: number, width: number, vocabulary: number): Case {
  return {
    family: "cross entropy",
    name: `${tokens}x${width}, vocabulary ${vocabulary}, forward+backward`,
    unit: "GFLOP/s",
    // The logits, then the gradients of both factors.
    amount: 3 * 2 * tokens * width * vocabulary,
    bound: "compute",
    async open() {
      const [x, weight] = [uniform(tokens, width), uniform(vocabulary, width)];
      const targets = integers(vocabulary, tokens);
      const body = () => {
        const { loss } = linearCrossEntropy(x!, weight!, targets);
        return [loss, ...gradients(loss, [x!, weight!])];
      };
      return openProgram([x!, weight!, targets], body, ["linear_cross_entropy"]);
    },
    torch: { kernel: "cross_entropy", tokens, width, vocabulary },
  };
}

export function crossEntropyCases(quick: boolean): Case[] {
  return quick ? [fused(64, 32, 512)] : [fused(2048, 256, 512), fused(1024, 256, 32_768), fused(256, 256, 131_072)];
}
