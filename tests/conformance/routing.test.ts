import { readFileSync } from "node:fs";
import {
  type BalanceForm,
  balanceLoss,
  compile,
  gradients,
  multiply,
  philox,
  RandomGenerator,
  type RouterConfig,
  route,
  sum,
  type Tensor,
  tensor,
  zLoss,
} from "@trefoil/core";
import { describe, expect, it } from "vitest";
import { fixturePath } from "./fixture.js";

const { router, balanceLosses } = JSON.parse(readFileSync(fixturePath("btx.json"), "utf8"));
const logits: number[][] = router.logits;
const upstream: number[][] = router.weightUpstream;
const topK: number = router.k;
const [tokens, experts] = [5, 4];

const matrix = (rows: readonly (readonly number[])[]) =>
  tensor(Float32Array.from(rows.flat()), { shape: [rows.length, rows[0]!.length] });
const near = (found: ArrayLike<number>, expected: readonly number[], tolerance = 1e-6) => {
  expect(found.length).toBe(expected.length);
  Array.from(found).forEach((value, i) => {
    expect(Math.abs(value - expected[i]!), `value ${i}: ${value}, expected ${expected[i]}`).toBeLessThan(tolerance);
  });
};

/** Weights, choices and the gradient of `Σ upstream · weights`, of one rule. */
async function routed(config: RouterConfig, k: number, up: readonly (readonly number[])[], training = false) {
  const random = new RandomGenerator(11);
  const run = compile((l: Tensor, dw: Tensor) => {
    const gate = route(l, k, config, training ? { random, temperature: 0.7 } : undefined);
    const [gradient] = gradients(sum(multiply(gate.weights, dw)), [l]);
    return { ...gate, gradient: gradient! };
  });
  const { weights, indices, gradient } = await run(matrix(logits), matrix(up));
  return { weights: await weights.data(), indices: [...(await indices.data())], gradient: await gradient.data() };
}

const softmax = (row: readonly number[]) => {
  const total = row.reduce((a, b) => a + Math.exp(b), 0);
  return row.map((value) => Math.exp(value) / total);
};

/** Gradient of `loss` at `at`, by central differences in double precision. */
function differences(loss: (rows: number[][]) => number, at: readonly (readonly number[])[]): number[] {
  const h = 1e-6;
  return at.flatMap((row, t) =>
    row.map((_, e) => {
      const moved = (by: number) => at.map((values, i) => values.map((v, j) => (i === t && j === e ? v + by : v)));
      return (loss(moved(h)) - loss(moved(-h))) / (2 * h);
    }),
  );
}

describe("routing rules on the worked example", () => {
  it("top-k: softmax over the kept logits", async () => {
    const { weights, indices, gradient } = await routed({ kind: "top-k" }, topK, upstream);
    expect(indices).toEqual(router.indices.flat());
    near(weights, router.softmaxOfKept.flat());
    near(gradient, router.softmaxOfKeptGradient.flat());
  });

  it("raw-top-k: the kept values of the softmax", async () => {
    const { weights, gradient } = await routed({ kind: "raw-top-k" }, topK, upstream);
    near(weights, router.keptOfSoftmax.flat());
    near(gradient, router.keptOfSoftmaxGradient.flat());
  });

  it.each([1, 3, 4])("top-k with k = %i, against finite differences", async (k) => {
    const up = logits.map((_, t) => Array.from({ length: k }, (_, j) => Math.sin(t + 2 * j)));
    const order = logits.map((row) => [...row.keys()].sort((a, b) => row[b]! - row[a]! || a - b).slice(0, k));
    const kept = (rows: number[][]) => rows.map((row, t) => softmax(order[t]!.map((e) => row[e]!)));
    const loss = (rows: number[][]) =>
      kept(rows).reduce((s, w, t) => s + w.reduce((a, v, j) => a + v * up[t]![j]!, 0), 0);
    const { weights, indices, gradient } = await routed({ kind: "top-k" }, k, up);
    expect(indices).toEqual(order.flat());
    near(weights, kept(logits).flat());
    near(gradient, differences(loss, logits));
  });

  it("soft: every expert with its probability", async () => {
    const up = logits.map((_, t) => [1, -2, 0.5, t]);
    const { weights, indices, gradient } = await routed({ kind: "soft" }, topK, up);
    const probabilities: number[][] = router.probabilities;
    near(
      weights,
      indices.map((e, slot) => probabilities[Math.floor(slot / experts)]![e]!),
    );
    const loss = (rows: number[][]) =>
      rows.reduce((s, row, t) => {
        const p = softmax(row);
        return s + up[t]!.reduce((a, value, j) => a + value * p[indices[t * experts + j]!]!, 0);
      }, 0);
    near(gradient, differences(loss, logits));
  });

  it("switch: the probability as weight; in training the tokens beyond capacity are dropped", async () => {
    const first: number[] = router.indices.map(([e]: number[]) => e);
    expect(first).toEqual([0, 3, 1, 0, 2]);
    const probability = (rows: readonly (readonly number[])[]) => rows.map((row, t) => softmax([...row])[first[t]!]!);
    const up = [[1], [2], [-1], [3], [0.5]];
    const config: RouterConfig = { kind: "switch", capacityFactor: 0.8 };
    const whole = await routed(config, topK, up);
    near(whole.weights, probability(logits));
    // ceil(0.8 · 5 / 4) = 1 token for each expert: token 3 is expert 0's second.
    const dropped = [1, 1, 1, 0, 1];
    const { weights, gradient } = await routed(config, topK, up, true);
    near(
      weights,
      probability(logits).map((p, t) => p * dropped[t]!),
    );
    const loss = (rows: number[][]) => probability(rows).reduce((s, p, t) => s + p * dropped[t]! * up[t]![0]!, 0);
    near(gradient, differences(loss, logits));
    const roomy = await routed({ kind: "switch" }, topK, up, true);
    near(roomy.weights, probability(logits));
  });

  it("sample-top-1: a Gumbel-softmax draw in training, the likeliest with weight 1 otherwise", async () => {
    // The op's contract: block b of Philox gives elements 4b..4b+3; the key is the seed, the counter has stream 0 and step 0.
    const noise = Array.from({ length: tokens }, (_, t) =>
      philox([t, 0, 0, 0], [11, 0]).map((word) => -Math.log(-Math.log(Math.max((word >>> 8) * 2 ** -24, 2 ** -25)))),
    );
    const z = (rows: readonly (readonly number[])[]) =>
      rows.map((row, t) => softmax(row.map((value, e) => (value + noise[t]![e]!) / 0.7)));
    const chosen = z(logits).map((row) => row.indexOf(Math.max(...row)));
    const up = [[1], [2], [-1], [3], [0.5]];
    const { weights, indices, gradient } = await routed({ kind: "sample-top-1" }, topK, up, true);
    expect(indices).toEqual(chosen);
    near(
      weights,
      z(logits).map((row, t) => row[chosen[t]!]!),
    );
    const loss = (rows: number[][]) => z(rows).reduce((s, row, t) => s + row[chosen[t]!]! * up[t]![0]!, 0);
    near(gradient, differences(loss, logits), 2e-6); // 1/τ amplifies the float32 rounding of the noise
    const inference = await routed({ kind: "sample-top-1" }, topK, up);
    expect(inference.indices).toEqual([0, 3, 1, 0, 2]);
    expect([...inference.weights]).toEqual([1, 1, 1, 1, 1]);
  });

  it("sample-top-1 draws each expert as often as the softmax says (Gumbel-max)", async () => {
    const random = new RandomGenerator(5);
    const rows = 40_000;
    const row = [0.5, -0.3, 0.9, 0];
    const many = tensor(
      Float32Array.from({ length: 4 * rows }, (_, i) => row[i % 4]!),
      { shape: [rows, 4] },
    );
    const draw = compile((l: Tensor) => route(l, 1, { kind: "sample-top-1" }, { random, temperature: 1 }).indices);
    const counts = [0, 0, 0, 0];
    for (const e of await (await draw(many)).data()) counts[e]!++;
    // Five standard deviations of a share of 40 000 draws are at most 0.0125.
    near(
      counts.map((count) => count / rows),
      softmax(row),
      0.0125,
    );
  });
});

describe("balancing losses on the worked example", () => {
  const value = async (
    form: BalanceForm | "z",
    layers: number[][][],
    options: Parameters<typeof balanceLoss>[2] = {},
  ) => {
    const run = compile((...inputs: Tensor[]) => {
      const routing = inputs.map((l) => ({ logits: l, ...route(l, topK, { kind: "top-k" }) }));
      const loss = form === "z" ? zLoss(routing, options) : balanceLoss(routing, form, options);
      return { loss, gradient: gradients(loss, inputs)[0]! };
    });
    const { loss, gradient } = await run(...layers.map(matrix));
    return { loss: await loss.item(), gradient: await gradient.data() };
  };

  it.each([
    ["switch", "switch"],
    ["btx", "btx"],
    ["btx-detached", "btx_detached"],
    ["hf", "hf"],
    ["megatron", "megatron"],
    ["z", "z"],
  ] as const)("%s: value and gradient", async (form, key) => {
    const expected = balanceLosses.forms[key];
    const { loss, gradient } = await value(form, [logits]);
    near([loss], [expected.value], 1e-6 * Math.max(1, expected.value));
    near(gradient, expected.gradient.flat());
    // The same layer twice: twice the sum, the same mean; for hf one batch of twice the tokens.
    const twice = await value(form, [logits, logits]);
    near([twice.loss], [form === "hf" ? expected.value : 2 * expected.value], 4e-6);
    if (form !== "hf") near([(await value(form, [logits, logits], { layers: "mean" })).loss], [expected.value], 2e-6);
  });

  it("per-token: value, and gradient against finite differences", async () => {
    const { loss, gradient } = await value("per-token", [logits]);
    near([loss], [2.140348]);
    const kept: number[][] = router.indices;
    const exact = (rows: number[][]) =>
      rows.reduce((total, row, t) => {
        const gates = softmax(kept[t]!.map((e) => row[e]!));
        const p = softmax(row);
        return total + (experts / tokens) * kept[t]!.reduce((s, e, j) => s + gates[j]! * p[e]!, 0);
      }, 0);
    near([loss], [exact(logits)]);
    near(gradient, differences(exact, logits));
  });

  it("leaves out masked tokens", async () => {
    const mask = tensor(Float32Array.of(1, 1, 1, 1, 0));
    near([(await value("hf", [logits], { mask })).loss], [balanceLosses.hfWithoutLastToken]);
    for (const form of ["btx", "switch", "megatron", "z"] as const) {
      const [masked, cut] = [await value(form, [logits], { mask }), await value(form, [logits.slice(0, 4)])];
      near([masked.loss], [cut.loss], 2e-6);
    }
  });

  it("hf over two layers that collapsed onto opposite experts looks balanced; layer by layer it does not", async () => {
    const { logits: opposed, hfConcatenated, hfMeanOfLayers } = balanceLosses.twoLayers;
    near([(await value("hf", opposed)).loss], [hfConcatenated], 1e-5);
    near([(await value("megatron", opposed, { layers: "mean" })).loss], [hfMeanOfLayers / topK], 1e-5);
  });
});
