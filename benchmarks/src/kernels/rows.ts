import { gradients, Parameter, rmsNorm, rope, silu, sum, swiglu } from "@trefoil/core";
import { openProgram, uniform } from "../measure/program.js";
import type { Case } from "../measure/side.js";

const f32Bytes = 4;

/** Inside the caches, and well beyond them: rows of each. */
const norms = (quick: boolean) =>
  (quick
    ? [[64, 128]]
    : [
        [2048, 256],
        [16384, 1024],
      ]) as [rows: number, width: number][];

function rmsNormCase([rows, width]: [number, number], backward: boolean): Case {
  return {
    family: "rms norm",
    name: `${rows}x${width} ${backward ? "backward" : "forward"}`,
    unit: "GB/s",
    // Forward reads x and writes y; backward reads dy and x and writes dx.
    amount: f32Bytes * rows * width * (backward ? 3 : 2),
    bound: "memory",
    async open() {
      const [x, weight, dy] = [uniform(rows, width), uniform(width), uniform(rows, width)];
      const body = () => {
        const y = rmsNorm(x!, weight!);
        return backward ? [y, ...gradients(sum(y.mul(dy!)), [x!, weight!])] : y;
      };
      return openProgram([x!, weight!, dy!], body, [backward ? "rms_norm_grad" : "rms_norm"]);
    },
    torch: { kernel: "rms_norm", rows, width, backward },
  };
}

function swigluCase([rows, width]: [number, number], backward: boolean): Case {
  return {
    family: "swiglu",
    name: `${rows}x${width} ${backward ? "backward" : "forward"}`,
    unit: "GB/s",
    // Forward reads 2 F and writes F; backward reads 2 F and F and writes 2 F.
    amount: f32Bytes * rows * width * (backward ? 5 : 3),
    bound: "memory",
    async open() {
      const [x, dy] = [uniform(rows, 2 * width), uniform(rows, width)];
      const body = () => {
        const y = swiglu(x!);
        return backward ? gradients(sum(y.mul(dy!)), [x!]) : y;
      };
      return openProgram([x!, dy!], body, [backward ? "swiglu_grad" : "swiglu"]);
    },
    torch: { kernel: "swiglu", rows, width, backward },
  };
}

function ropeCase(batch: number, sequence: number, heads: number, headDim: number): Case {
  return {
    family: "rope",
    name: `${batch}x${sequence} heads ${heads}x${headDim}`,
    unit: "GB/s",
    amount: f32Bytes * batch * sequence * heads * headDim * 2,
    bound: "memory",
    async open() {
      const x = uniform(batch, sequence, heads, headDim);
      const [cosine, sine] = [uniform(sequence, headDim / 2), uniform(sequence, headDim / 2)];
      const data = Int32Array.from({ length: batch * sequence }, (_, i) => i % sequence);
      const positions = new Parameter([batch, sequence], { data, trainable: false });
      return openProgram([x, cosine!, sine!, positions], () => rope(x, cosine!, sine!, positions), ["rope"]);
    },
    torch: { kernel: "rope", batch, sequence, heads, head_dim: headDim },
  };
}

function chainCase(rows: number, width: number): Case {
  return {
    family: "elementwise chain",
    name: `silu(a b + c) ${rows}x${width}`,
    unit: "GB/s",
    amount: f32Bytes * rows * width * 4,
    bound: "memory",
    async open() {
      const [a, b, c] = [uniform(rows, width), uniform(rows, width), uniform(rows, width)];
      return openProgram([a!, b!, c!], () => silu(a!.mul(b!).add(c!)), ["elementwise"]);
    },
    torch: { kernel: "elementwise_chain", rows, width },
  };
}

/** Work on rows that memory bounds: norms, gates, rotations, fused chains. */
export function rowCases(quick: boolean): Case[] {
  const both = (make: (size: [number, number], backward: boolean) => Case, sizes: [number, number][]) =>
    sizes.flatMap((size) => [make(size, false), make(size, true)]);
  return [
    ...both(rmsNormCase, norms(quick)),
    ...both(
      swigluCase,
      quick
        ? [[64, 128]]
        : [
            [2048, 704],
            [8192, 2816],
          ],
    ),
    ...(quick ? [ropeCase(1, 64, 4, 32)] : [ropeCase(4, 512, 8, 64), ropeCase(8, 2048, 16, 64)]),
    ...(quick ? [chainCase(64, 128)] : [chainCase(2048, 256), chainCase(16384, 1024)]),
  ];
}
