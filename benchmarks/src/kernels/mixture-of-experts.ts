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
  skewed: boolean;
}

const topK = 2;
const standardDeviation = 0.02;

/** Forward and backward of a routed SwiGLU layer, beside transformers' Mixtral block and a dense layer over as many rows. */
function layer({ tokens, hidden, intermediate, experts, skewed }: LayerSize): Case {
  const rows = tokens * topK;
  // Each expert's logits lie below those of the one before by their standard deviation over uniform inputs.
  const skew = skewed ? standardDeviation * Math.sqrt(hidden / 3) : 0;
  return {
    family: "moe layer",
    name: `${experts} experts top-${topK} ${skewed ? "skewed" : "even"} ${tokens}x${hidden}x${intermediate} forward+backward`,
    unit: "GFLOP/s",
    // Three matrices, one product forward and two backward.
    amount: 3 * 2 * rows * 3 * hidden * intermediate,
    bound: "compute",
    async open() {
      const options = { hiddenSize: hidden, intermediateSize: intermediate, standardDeviation };
      const routed = new MixtureOfExperts({ ...options, experts, topK });
      const dense = new FeedForward(options);
      const [x, dy, wide, dWide] = [
        uniform(tokens, hidden),
        uniform(tokens, hidden),
        uniform(rows, hidden),
        uniform(rows, hidden),
      ];
      // A feature that is always 1 carries the skew.
      const features = Float32Array.from(await x!.data());
      for (let i = 0; i < features.length; i += hidden) features[i] = 1;
      x!.set(features);
      const gate = Float32Array.from(await routed.gate.data());
      for (let e = 0; e < experts; e++) gate[e * hidden] = -skew * e;
      routed.gate.set(gate);
      // The output is a result too: no gradient of a dense layer needs its last product, which would not run otherwise.
      const bothWays = (input: Tensor, output: Tensor, upstream: Tensor, parameters: readonly Parameter[]) => [
        output,
        ...gradients(sum(output.mul(upstream)), [input, ...parameters]),
      ];
      const own = openProgram([x!, dy!, wide!, dWide!, ...routed.parameters(), ...dense.parameters()], () =>
        bothWays(x!, routed.forward(x!).output, dy!, routed.parameters()),
      );
      const reference = programSide("dense layer of as many rows", () =>
        bothWays(wide!, dense.forward(wide!), dWide!, dense.parameters()),
      );
      return { ...own, references: [reference] };
    },
    torch: { kernel: "moe_layer", tokens, hidden, intermediate, experts, top_k: topK, skew },
  };
}

/** Products by expert, and whole routed layers. */
export function mixtureOfExpertsCases(quick: boolean): Case[] {
  if (quick)
    return [
      grouped(256, 64, 128, 4, true),
      layer({ tokens: 64, hidden: 64, intermediate: 128, experts: 4, skewed: true }),
    ];
  const products = [4, 8].flatMap((experts) =>
    [false, true].map((skewed) => grouped(4096, 512, 1024, experts, skewed)),
  );
  const layers = [
    { tokens: 2048, hidden: 256, intermediate: 704 },
    { tokens: 512, hidden: 1024, intermediate: 2816 },
  ].flatMap((size) => [4, 8].flatMap((experts) => [false, true].map((skewed) => layer({ ...size, experts, skewed }))));
  return [...products, ...layers];
}
