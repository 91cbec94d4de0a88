import { gelu, linear, matmul, type Parameter, swiglu, type Tensor } from "@trefoil/core";
import { openProgram, uniform } from "../measure/program.js";
import type { Case } from "../measure/side.js";

type Size = readonly [m: number, k: number, n: number];

const sizes: readonly Size[] = [
  [256, 256, 256],
  [512, 512, 512],
  [1024, 1024, 1024],
  [2048, 2048, 2048],
  [2048, 256, 1024],
  [2048, 1024, 256],
  [4096, 512, 2048],
  [64, 256, 8192],
  [1024, 384, 384],
  [1024, 384, 1536],
  [1, 2048, 2048],
  [8, 2048, 2048],
  [8192, 128, 128],
];

const fewRows = 16;

const product = ([m, k, n]: Size, transposeA: boolean, transposeB: boolean, threads?: number): Case => ({
  family: `matmul ${transposeA ? "t" : "n"}${transposeB ? "t" : "n"}${threads === 1 ? ", one thread" : ""}`,
  name: `${m}x${k}x${n}`,
  unit: "GFLOP/s",
  amount: 2 * m * k * n,
  // A few rows are bound by reading b.
  ...(m >= fewRows ? { bound: "compute" } : {}),
  ...(threads ? { threads } : {}),
  async open() {
    const a = transposeA ? uniform(k, m) : uniform(m, k);
    const b = transposeB ? uniform(n, k) : uniform(k, n);
    return openProgram([a, b], () => matmul(a, b, { transposeA, transposeB }), ["matmul"]);
  },
  torch: { kernel: "matmul", m, k, n, transpose_a: transposeA, transpose_b: transposeB },
  sgemm: { m, k, n, transposeA, transposeB },
});

/** sgemm in all transpose forms (x W, dY Wᵀ, Xᵀ dY and both), and the square 1024 on one thread. */
export function matmulCases(quick: boolean): Case[] {
  const forms = quick
    ? [[false, false] as const]
    : ([
        [false, false],
        [false, true],
        [true, false],
        [true, true],
      ] as const);
  const list = quick ? sizes.filter(([m, k, n]) => m * k * n <= 512 ** 3) : sizes;
  const cases = forms.flatMap(([transposeA, transposeB]) => list.map((size) => product(size, transposeA, transposeB)));
  return quick ? cases : [...cases, product([1024, 1024, 1024], false, false, 1)];
}

interface FusedLayer {
  name: string;
  /** Rows of the weight for `n` results. */
  rows: (n: number) => number;
  bias: boolean;
  forward(x: Tensor, weight: Tensor, bias: Tensor): Tensor;
}

const fusedLayers: readonly FusedLayer[] = [
  { name: "gelu", rows: (n) => n, bias: true, forward: (x, weight, bias) => gelu(linear(x, weight, bias)) },
  { name: "swiglu", rows: (n) => 2 * n, bias: false, forward: (x, weight) => swiglu(linear(x, weight)) },
];

/** A linear layer with what follows it: bias and GELU, or the SwiGLU of gate and up projections. */
export function linearCases(quick: boolean): Case[] {
  const list: readonly Size[] = quick
    ? [[256, 128, 256]]
    : [
        [2048, 256, 1024],
        [1024, 384, 1536],
        [2048, 1024, 2816],
      ];
  return fusedLayers.flatMap(({ name, rows, bias: hasBias, forward }) =>
    list.map(
      ([m, k, n]): Case => ({
        family: "linear",
        name: `${name} ${m}x${k}x${n}`,
        unit: "GFLOP/s",
        amount: 2 * m * k * rows(n),
        bound: "compute",
        async open() {
          const [x, weight, bias] = [uniform(m, k), uniform(rows(n), k), uniform(rows(n))] as [
            Parameter,
            Parameter,
            Parameter,
          ];
          return openProgram([x, weight, bias], () => forward(x, weight, bias));
        },
        torch: { kernel: `linear_${name}`, m, k, n: rows(n), bias: hasBias },
      }),
    ),
  );
}
