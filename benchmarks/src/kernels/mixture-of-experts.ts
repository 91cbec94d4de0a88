import {
  FeedForward,
  gradients,
  groupedMatmul,
  linear,
  MixtureOfExperts,
  Parameter,
  sum,
  type Tensor,
} from "@trefoil/core";
import { openProgram, programSide, uniform } from "../measure/program.js";
import type { Case } from "../measure/side.js";

/** Rows of each expert: the same for all, or each half of what is left. */
function groupSizes(rows: number, experts: number, skewed: boolean): number[] {
  if (!skewed)
    return Array.from(
      { length: experts },
      (_, e) => Math.floor(((e + 1) * rows) / experts) - Math.floor((e * rows) / experts),
    );
  let left = rows;
  return Array.from({ length: experts }, (_, e) => {
    const size = e === experts - 1 ? left : Math.ceil(left / 2);
    left -= size;
    return size;
  });
}

function grouped(rows: number, k: number, n: number, experts: number, skewed: boolean): Case {
  const sizes = groupSizes(rows, experts, skewed);
  return {
    family: "grouped matmul",
    name: `${experts} experts ${skewed ? "skewed" : "even"} ${rows}x${k}x${n}`,
    unit: "GFLOP/s",
    amount: 2 * rows * k * n,
    bound: "compute",
    async open() {
      const x = uniform(rows, k);
      const weight = uniform(experts, n, k);
      const first = uniform(n, k);
      let end = 0;
      const ends = [0, ...sizes.map((size) => (end += size))];
      const offsets = new Parameter([experts + 1], { data: Int32Array.from(ends), trainable: false });
      const dense = programSide("one dense matmul", () => linear(x, first), ["matmul"]);
      return {
        ...openProgram([x, weight, first, offsets], () => groupedMatmul(x, weight, offsets), ["grouped_matmul"]),
        references: [dense],
      };
    },
    torch: { kernel: "grouped_matmul", sizes, k, n },
  };
}

interface LayerSize {
  tokens: number;
  hidden: number;
  intermediate: number;
  experts: number;
}

const topK = 2;

/** Forward and backward of a routed SwiGLU layer, beside transformers' Mixtral block and a dense layer over as many rows. */
function layer({ tokens, hidden, intermediate, experts }: LayerSize): Case {
  const rows = tokens * topK;
  return {
    family: "moe layer",
    name: `${experts} experts top-${topK} ${tokens}x${hidden}x${intermediate} forward+backward`,
    unit: "GFLOP/s",
    // Three matrices, one product forward and two backward.
    amount: 3 * 2 * rows * 3 * hidden * intermediate,
    bound: "compute",
    async open() {
      const options = { hiddenSize: hidden, intermediateSize: intermediate, standardDeviation: 0.02 };
      const routed = new MixtureOfExperts({ ...options, experts, topK });
      const dense = new FeedForward(options);
      const [x, dy, wide, dWide] = [
        uniform(tokens, hidden),
        uniform(tokens, hidden),
        uniform(rows, hidden),
        uniform(rows, hidden),
      ];
      const backward = (input: Tensor, output: Tensor, upstream: Tensor, parameters: readonly Parameter[]) =>
        gradients(sum(output.mul(upstream)), [input, ...parameters]);
      const own = openProgram([x!, dy!, wide!, dWide!, ...routed.parameters(), ...dense.parameters()], () =>
        backward(x!, routed.forward(x!).output, dy!, routed.parameters()),
      );
      const reference = programSide("dense layer of as many rows", () =>
        backward(wide!, dense.forward(wide!), dWide!, dense.parameters()),
      );
      return { ...own, references: [reference] };
    },
    torch: { kernel: "moe_layer", tokens, hidden, intermediate, experts, top_k: topK },
  };
}

/** Products by expert, and whole routed layers. */
export function mixtureOfExpertsCases(quick: boolean): Case[] {
  if (quick) return [grouped(256, 64, 128, 4, true), layer({ tokens: 64, hidden: 64, intermediate: 128, experts: 4 })];
  const products = [4, 8].flatMap((experts) =>
    [false, true].map((skewed) => grouped(4096, 512, 1024, experts, skewed)),
  );
  const layers = [
    { tokens: 2048, hidden: 256, intermediate: 704 },
    { tokens: 1024, hidden: 512, intermediate: 1408 },
    { tokens: 512, hidden: 1024, intermediate: 2816 },
  ].flatMap((size) => [4, 8].map((experts) => layer({ ...size, experts })));
  return [...products, ...layers];
}
