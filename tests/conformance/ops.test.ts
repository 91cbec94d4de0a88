import * as trefoil from "@trefoil/core";
import {
  allOps,
  compile,
  concat,
  defaultDevice,
  full,
  gradients,
  multiply,
  sum,
  type Tensor,
  tensor,
} from "@trefoil/core";
import { beforeAll, describe, expect, it } from "vitest";
import { expectClose, fixturePath, readFixture } from "./fixture.js";

interface Case {
  op: string;
  inputs: number;
  outputs: number;
  gradients: number[];
  upstream: number[];
  // biome-ignore lint/suspicious/noExplicitAny: attributes are whatever JSON the generator wrote for the op
  attributes: any;
}

type Inputs = (Tensor | null)[];
type Build = (inputs: Inputs, attributes: Case["attributes"]) => Tensor[];

const unary =
  (op: (x: Tensor) => Tensor): Build =>
  ([x]) => [op(x!)];
const binary =
  (op: (a: Tensor, b: Tensor) => Tensor): Build =>
  ([a, b]) => [op(a!, b!)];
const reduction =
  (op: (x: Tensor, options: trefoil.ReduceOptions) => Tensor): Build =>
  ([x], { axes, keepDims }) => [op(x!, { axes: axes ?? undefined, keepDims })];

const activations = { none: (x: Tensor) => x, relu: trefoil.relu, gelu: trefoil.gelu, silu: trefoil.silu };

function moeLayer([x, router, w1, w3, w2]: Inputs, { k, mode }: Case["attributes"]): Tensor[] {
  const { weights, indices } = trefoil.moeGate(
    trefoil.linear(x!, router!),
    k,
    mode === 0 ? "topk-softmax" : "softmax-topk",
  );
  const order = trefoil.moeSort(indices, router!.shape[0]!);
  const hidden = trefoil.swiglu(
    trefoil.groupedMatmul(x!, concat([w1!, w3!], 1), order.offsets, { rowIndex: order.token }),
  );
  return [trefoil.moeCombine(trefoil.groupedMatmul(hidden, w2!, order.offsets), order, weights)];
}

function balance(layers: Inputs, { form, k }: Case["attributes"]): Tensor[] {
  const routing = layers.map((logits) => ({ logits: logits!, ...trefoil.moeGate(logits!, k) }));
  return [form === "z" ? trefoil.zLoss(routing) : trefoil.balanceLoss(routing, form.replace("_", "-"))];
}

/** How each op of the fixture is written in TypeScript. */
const builders: Record<string, Build> = {
  ...Object.fromEntries(
    (
      [
        ["absolute", trefoil.absolute],
        ["cos", trefoil.cos],
        ["erf", trefoil.erf],
        ["exp", trefoil.exp],
        ["floor", trefoil.floor],
        ["gelu", trefoil.gelu],
        ["gelu_exact", trefoil.geluExact],
        ["log", trefoil.log],
        ["negate", trefoil.negate],
        ["reciprocal", trefoil.reciprocal],
        ["relu", trefoil.relu],
        ["round", trefoil.round],
        ["rsqrt", trefoil.rsqrt],
        ["sigmoid", trefoil.sigmoid],
        ["sign", trefoil.sign],
        ["silu", trefoil.silu],
        ["sin", trefoil.sin],
        ["softplus", trefoil.softplus],
        ["sqrt", trefoil.sqrt],
        ["square", trefoil.square],
        ["tanh", trefoil.tanh],
        ["softmax", trefoil.softmax],
        ["log_softmax", trefoil.logSoftmax],
        ["logsumexp", trefoil.logsumexp],
        ["swiglu", trefoil.swiglu],
        ["argmax", trefoil.argmax],
      ] as const
    ).map(([name, op]) => [name, unary(op)]),
  ),
  ...Object.fromEntries(
    (
      [
        ["add", trefoil.add],
        ["subtract", trefoil.subtract],
        ["multiply", trefoil.multiply],
        ["divide", trefoil.divide],
        ["maximum", trefoil.maximum],
        ["minimum", trefoil.minimum],
        ["power", trefoil.power],
        ["less", trefoil.less],
        ["less_equal", trefoil.lessEqual],
        ["equal", trefoil.equal],
        ["not_equal", trefoil.notEqual],
        ["gather_rows", trefoil.gatherRows],
        ["gather_last", trefoil.gatherLast],
      ] as const
    ).map(([name, op]) => [name, binary(op)]),
  ),
  where: ([c, a, b]) => [trefoil.where(c!, a!, b!)],
  sum: reduction(trefoil.sum),
  mean: reduction(trefoil.mean),
  max: reduction(trefoil.max),
  min: reduction(trefoil.min),
  sum_squares: (inputs) => [trefoil.sumSquares(inputs as Tensor[])],
  broadcast_to: ([x], { shape }) => [trefoil.broadcastTo(x!, shape)],
  concat: (inputs, { axis }) => [concat(inputs as Tensor[], axis)],
  split: ([x], { sizes, axis }) => trefoil.split(x!, sizes, axis),
  cumulative_sum: ([x], { axis }) => [trefoil.cumulativeSum(x!, { axis })],
  softmax_along: ([x], { axis }) => [trefoil.softmax(x!, { axis })],
  log_softmax_along: ([x], { axis }) => [trefoil.logSoftmax(x!, { axis })],
  logsumexp_along: ([x], { axis }) => [trefoil.logsumexp(x!, { axis })],
  argmax_along: ([x], { axis }) => [trefoil.argmax(x!, { axis })],
  top_k: ([x], { k }) => {
    const { values, indices } = trefoil.topK(x!, k);
    return [values, indices];
  },
  slice: ([x], { axis, start, length }) => [trefoil.slice(x!, axis, start, start + length)],
  pad: ([x], { axis, start, length }) => [trefoil.pad(x!, axis, start, length)],
  transpose: ([x], { permutation }) => [trefoil.transpose(x!, permutation)],
  scatter_add_rows: ([rows, index], { rows: size }) => [trefoil.scatterAddRows(rows!, index!, size)],
  scatter_last: ([values, index], { size }) => [trefoil.scatterLast(values!, index!, size)],
  matmul: ([a, b, bias, residual], { transposeA, transposeB, alpha, activation }) => {
    let z = multiply(trefoil.matmul(a!, b!, { transposeA, transposeB }), alpha);
    if (bias) z = trefoil.add(z, bias);
    const c = activations[activation as keyof typeof activations](z);
    return [residual ? trefoil.add(c, residual) : c];
  },
  grouped_matmul: ([x, w, offsets, rowIndex], { transposeW }) => [
    trefoil.groupedMatmul(x!, w!, offsets!, { transposeW, rowIndex: rowIndex ?? null }),
  ],
  cross_entropy: ([logits, targets, weights]) => Object.values(trefoil.crossEntropy(logits!, targets!, weights!)),
  linear_cross_entropy: ([x, w, targets, weights]) =>
    Object.values(trefoil.linearCrossEntropy(x!, w!, targets!, weights!)),
  rms_norm: ([x, weight], { epsilon }) => [trefoil.rmsNorm(x!, weight!, epsilon)],
  layer_norm: ([x, weight, bias], { epsilon }) => [trefoil.layerNorm(x!, weight ?? null, bias ?? null, epsilon)],
  rope: ([x, cosine, sine, positions], { interleaved, inverse }) => [
    trefoil.rope(x!, cosine!, inverse ? trefoil.negate(sine!) : sine!, positions!, { interleaved }),
  ],
  attention: ([q, k, v, keyLengths, segments], { causal, scale }) => [
    trefoil.attention(q!, k!, v!, {
      causal,
      scale,
      ...(keyLengths ? { keyLengths } : {}),
      ...(segments ? { segments } : {}),
    }),
  ],
  moe_gate: ([logits], { k, mode }) => {
    const { weights, indices } = trefoil.moeGate(logits!, k, mode === 0 ? "topk-softmax" : "softmax-topk");
    return [weights, indices];
  },
  moe_layer: moeLayer,
  conv2d: ([x, w, bias], options) => [trefoil.conv2d(x!, w!, bias ?? null, options)],
  conv2d_input_grad: ([dy, w, x], options) =>
    gradients(sum(multiply(trefoil.conv2d(x!, w!, null, options), dy!)), [x!]),
  conv2d_weight_grad: ([dy, x, w], options) =>
    gradients(sum(multiply(trefoil.conv2d(x!, w!, null, options), dy!)), [w!]),
  group_norm: ([x, weight, bias], options) => [trefoil.groupNorm(x!, weight!, bias!, options)],
  vq_lookup: ([x, codebook]) => Object.values(trefoil.vqLookup(x!, codebook!)),
  vector_quantise: ([x, codebook]) => Object.values(trefoil.vectorQuantise(x!, codebook!)),
  masked_diffusion_step: ([logits, unconditional, tokens, remaining], { controls, maskToken }) =>
    Object.values(
      trefoil.maskedDiffusionStep(
        {
          logits: logits!,
          unconditional: unconditional!,
          tokens: tokens!,
          remaining: remaining!,
          controls: tensor(controls),
        },
        { maskToken },
        tensor(new Int32Array(4)),
      ),
    ),
  upsample_nearest2: unary(trefoil.upsampleNearest2),
  average_pool2: unary(trefoil.averagePool2),
  balance_loss: balance,
};

/** What a fixture holds that this test leaves to another, and where. */
const elsewhere: Record<string, string> = {
  adamw: "optimizer.test.ts: it is a sequence of steps, not a function",
};

const { tensors, metadata } = await readFixture(fixturePath("ops.safetensors"));
const cases = Object.entries(JSON.parse(metadata.cases!) as Record<string, Case>).filter(
  ([name, { op }]) => !(op in elsewhere) && !(name in elsewhere),
);

/** Inputs become arguments of a compiled function, so that nothing is folded away. */
function run(name: string, { op, inputs, gradients: wanted, upstream, attributes }: Case) {
  const given = Array.from({ length: inputs }, (_, i) => tensors.get(`${name}/input${i}`) ?? null);
  const upstreams = upstream.map((output) => tensors.get(`${name}/upstream${output}`)!);
  return compile((values: Inputs, weights: Tensor[]) => {
    const outputs = builders[op]!(values, attributes);
    if (upstream.length === 0) return { outputs, grads: [] as Tensor[] };
    const loss = upstream
      .map((output, i) => sum(multiply(outputs[output]!, weights[i]!)))
      .reduce((a, b) => trefoil.add(a, b));
    return {
      outputs,
      grads: gradients(
        loss,
        wanted.map((input) => values[input]!),
      ),
    };
  })(given, upstreams);
}

describe("ops against PyTorch in double precision", () => {
  it.each(cases)("%s", async (name, testCase) => {
    const { outputs, grads } = await run(name, testCase);
    // Every kernel accumulates in f32 over at most a few hundred terms: 2e-6 of the largest value is a few roundings.
    for (const [i, output] of outputs.entries()) {
      await expectClose(`output ${i}`, output, tensors.get(`${name}/output${i}`)!, 2e-6, 1e-6);
    }
    for (const [i, input] of testCase.gradients.entries()) {
      // Scores near 200 are themselves off by 200 * 2^-24, and the probabilities inherit that.
      const absolute = name === "attention/large_scores" ? 2e-5 : 1e-6;
      await expectClose(`gradient ${input}`, grads[i]!, tensors.get(`${name}/grad${input}`)!, 5e-6, absolute);
    }
    expect(grads.length).toBe(testCase.upstream.length === 0 ? 0 : testCase.gradients.length);
  });
});

describe("every op has a kernel and a row", () => {
  let kernels: Set<string>;
  beforeAll(() => {
    kernels = new Set(defaultDevice().ops());
  });

  it("names a kernel that the CPU backend has", () => {
    const missing = allOps().filter(({ kernel }) => kernel !== "alias" && !kernels.has(kernel));
    expect(missing.map(({ name }) => name)).toEqual([]);
  });

  it("leaves no kernel without an op", () => {
    const used = new Set(allOps().map(({ kernel }) => kernel));
    expect([...kernels].filter((kernel) => !used.has(kernel))).toEqual([]);
  });

  it("covers every differentiable op with a case", async () => {
    const covered = new Set<string>();
    for (const [name, testCase] of cases) {
      const given = Array.from({ length: testCase.inputs }, (_, i) => tensors.get(`${name}/input${i}`) ?? null);
      const pending = builders[testCase.op]!(given, testCase.attributes);
      while (pending.length > 0) {
        const { source } = pending.pop()!;
        if (source.kind !== "op") continue;
        covered.add(source.node.op.name);
        pending.push(...source.node.inputs.filter((input) => input !== null));
      }
    }
    const differentiable = allOps().filter(({ gradient }) => typeof gradient === "function");
    // A cast, a copy, a recomputed block and what changes nothing appear in no fixture; packages/core/test has them.
    const uncovered = differentiable.map(({ name }) => name).filter((name) => !covered.has(name));
    expect(uncovered.sort()).toEqual(["cast_elementwise", "copy", "recompute", "unchanged"]);
  });

  it("keeps constants out of memory", () => {
    expect(full([1000, 1000], 1).source.kind).toBe("full");
    expect(tensor([1, 2]).source.kind).toBe("host");
  });
});
