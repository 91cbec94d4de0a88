import { AdamW } from "@trefoil/core";
import { openProgram, uniform } from "../measure/program.js";
import type { Case } from "../measure/side.js";

/** One fused AdamW update of one tensor: reads parameter, gradient and both moments, writes all but the gradient. */
function adamW(rows: number, width: number): Case {
  return {
    family: "adamw",
    name: `${rows}x${width}`,
    unit: "GB/s",
    amount: 4 * rows * width * 7,
    bound: "memory",
    async open() {
      const [parameter, gradient] = [uniform(rows, width), uniform(rows, width)];
      const optimizer = new AdamW([parameter!], { learningRate: 1e-3, clipNorm: Number.POSITIVE_INFINITY });
      const state = [...optimizer.namedState().values()];
      return openProgram([parameter!, gradient!, ...state], () => optimizer.apply([gradient!]).gradientNorm, [
        "adamw_",
      ]);
    },
    torch: { kernel: "adamw", rows, width },
  };
}

export function optimizerCases(quick: boolean): Case[] {
  return quick ? [adamW(64, 128)] : [adamW(256, 1024), adamW(8192, 1024)];
}
