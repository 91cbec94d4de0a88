import { readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { ModelFolder, tensor } from "@trefoil/core";
import { expect, it } from "vitest";
import { type MixOptions, mix, OpenModel, planMix, planUpcycle, upcycle } from "../../src/index.js";
import { temporaryFolder, tinyConfig, writeCheckpoint } from "../checkpoints.js";

const json = (folder: string, name: string) => JSON.parse(readFileSync(join(folder, name), "utf8"));
const tokens = tensor(
  Int32Array.from({ length: 24 }, (_, i) => (i * 37) % 256),
  { shape: [1, 24] },
);

async function logits(path: string): Promise<Float32Array> {
  using opened = await OpenModel.open(path);
  return (await opened.model.logits(tokens).data()) as Float32Array;
}

async function expectSame(one: string, other: string): Promise<void> {
  const [a, b] = [await logits(one), await logits(other)];
  const largest = Math.max(...a.map(Math.abs));
  // Float32 rounding of a few gated sums in two layers.
  for (let i = 0; i < a.length; i++) expect(Math.abs(a[i]! - b[i]!)).toBeLessThan(2e-5 * largest);
}

it("split and blend of equal checkpoints, all experts with equal gates, compute the dense model", async () => {
  const folder = temporaryFolder();
  const seed = await writeCheckpoint(join(folder, "seed"), { seed: 4 });
  const equal = { kind: "random", standardDeviation: 0 } as const;
  const split = { experts: [seed, seed], output: join(folder, "split"), router: equal, expertsPerToken: 6 };
  await mix({ ...split, arrange: { kind: "split", chunks: 3 } });
  await expectSame(seed, split.output);
  // Blended experts of one checkpoint are its chunks, each twice: their sum over N, the gates, is the dense layer.
  const blend = { experts: [seed, seed], output: join(folder, "blend"), router: equal };
  await mix({ ...blend, arrange: { kind: "blend" } });
  await expectSame(seed, blend.output);
  expect(json(split.output, "config.json")).toMatchObject({ num_local_experts: 6, intermediate_size: 4 });
});

/** W2 (silu(W1 x) ⊙ W3 x) in double precision, of the first layer. @param names of W1, W3 and W2 */
async function feedForward(path: string, names: readonly [string, string, string]): Promise<Float64Array> {
  await using folder = await ModelFolder.open(path);
  const [w1, w3, w2] = await Promise.all(names.map((name) => folder.readF32(name)));
  const d = tinyConfig.hiddenSize;
  const units = w1!.length / d;
  const x = Float64Array.from({ length: d }, (_, i) => Math.sin(1 + 2 * i));
  const dot = (w: Float32Array, unit: number) => x.reduce((sum, value, i) => sum + value * w[unit * d + i]!, 0);
  const hidden = Float64Array.from({ length: units }, (_, unit) => {
    const gate = dot(w1!, unit);
    return (gate / (1 + Math.exp(-gate))) * dot(w3!, unit);
  });
  return Float64Array.from({ length: d }, (_, row) => hidden.reduce((sum, h, u) => sum + h * w2![row * units + u]!, 0));
}
const dense = (path: string) =>
  feedForward(
    path,
    [0, 1, 2].map((i) => `model.layers.0.mlp.${["gate", "up", "down"][i]}_proj.weight`) as [string, string, string],
  );
const expert = (path: string, e: number) =>
  feedForward(
    path,
    ["w1", "w3", "w2"].map((w) => `model.layers.0.block_sparse_moe.experts.${e}.${w}.weight`) as [
      string,
      string,
      string,
    ],
  );
const total = (vectors: readonly Float64Array[], factor = 1) =>
  Float64Array.from(vectors[0]!, (_, i) => factor * vectors.reduce((sum, vector) => sum + vector[i]!, 0));
function expectNear(found: Float64Array, wanted: Float64Array, tolerance: number): void {
  const largest = Math.max(...wanted.map(Math.abs));
  expect(largest).toBeGreaterThan(0.1);
  for (const [i, value] of wanted.entries()) expect(Math.abs(found[i]! - value)).toBeLessThan(tolerance * largest);
}

// A factor of 2 is exact in float32, one of 3 is rounded.
it.each([
  [2, 1e-13],
  [3, 2e-7],
])(
  "split exactness: the mean of the %i chunks of a checkpoint is its feed-forward layer",
  async (chunks, tolerance) => {
    const folder = temporaryFolder();
    const experts = await Promise.all([1, 2].map((seed) => writeCheckpoint(join(folder, `e${seed}`), { seed })));
    const output = join(folder, "split");
    await mix({ experts, output, arrange: { kind: "split", chunks } });
    for (const [i, path] of experts.entries()) {
      const own = await Promise.all(Array.from({ length: chunks }, (_, c) => expert(output, i * chunks + c)));
      expectNear(total(own, 1 / chunks), await dense(path), tolerance);
      expect(own[0]).not.toEqual(own[1]);
    }
  },
);

it("blend conservation: the blended experts sum to what the checkpoints' feed-forward layers sum to", async () => {
  const folder = temporaryFolder();
  const experts = await Promise.all([1, 2, 3].map((seed) => writeCheckpoint(join(folder, `e${seed}`), { seed })));
  const output = join(folder, "blend");
  await mix({ experts, output, arrange: { kind: "blend" } });
  const blended = await Promise.all(experts.map((_, n) => expert(output, n)));
  expectNear(total(blended), total(await Promise.all(experts.map(dense))), 1e-13);
  expect(blended[0]).not.toEqual(await dense(experts[0]!));
});

it("blends and splits of different checkpoints, all experts with equal gates, sum to what whole experts do", async () => {
  const folder = temporaryFolder();
  const experts = await Promise.all([1, 2].map((seed) => writeCheckpoint(join(folder, `e${seed}`), { seed })));
  const shared = { experts, router: { kind: "random", standardDeviation: 0 } } as const;
  const made = async (output: string, more: Partial<MixOptions>) => {
    await mix({ ...shared, ...more, output: join(folder, output) });
    return join(folder, output);
  };
  // Gates of 1/2 over two whole experts, over two blends of the same sum, and of 1/4 over four chunks scaled by 2.
  const whole = await made("whole", { expertsPerToken: 2 });
  await expectSame(whole, await made("blend", { expertsPerToken: 2, arrange: { kind: "blend" } }));
  await expectSame(whole, await made("split", { expertsPerToken: 4, arrange: { kind: "split", chunks: 2 } }));
});

it("upcycled without noise a checkpoint computes what it did, in all layers or some", async () => {
  const folder = temporaryFolder();
  const seed = await writeCheckpoint(join(folder, "seed"), { seed: 5, dtype: "BF16" });
  const shared = { model: seed, experts: 3, router: { kind: "random", standardDeviation: 1 } } as const;
  await upcycle({ ...shared, output: join(folder, "all") });
  await expectSame(seed, join(folder, "all"));
  await upcycle({ ...shared, output: join(folder, "last"), layers: [1] });
  await expectSame(seed, join(folder, "last"));
  // transformers' Mixtral has no dense layers: it must not load this silently.
  expect(json(join(folder, "last"), "config.json")).toMatchObject({
    model_type: "trefoil_mixtral",
    trefoil: { moe_layers: [1], expert_names: ["copy 0", "copy 1", "copy 2"] },
  });
  const plan = await planUpcycle({ ...shared, output: join(folder, "x"), layers: [1] });
  const { hiddenSize: d, intermediateSize: f } = tinyConfig;
  expect(plan.parameters - plan.activeParameters).toBe(3 * d * f);
  await expect(planUpcycle({ ...shared, output: join(folder, "x"), layers: [2] })).rejects.toMatchObject({
    code: "MIX_OPTIONS",
  });
});

it("adds noise of the size asked for, different for every expert, the same for the same seed", async () => {
  const folder = temporaryFolder();
  const config = { hiddenSize: 64, headDim: 16, intermediateSize: 96, layers: 1 };
  const seed = await writeCheckpoint(join(folder, "seed"), { seed: 6, config });
  const name = (e: number) => `model.layers.0.block_sparse_moe.experts.${e}.w2.weight`;
  const noisy = async (output: string) => {
    await upcycle({ model: seed, experts: 2, noise: 0.1, output: join(folder, output) });
    await using made = await ModelFolder.open(join(folder, output));
    return [await made.readF32(name(0)), await made.readF32(name(1))] as const;
  };
  await using source = await ModelFolder.open(seed);
  const dense = await source.readF32("model.layers.0.mlp.down_proj.weight");
  const rms = (values: Float32Array) =>
    Math.sqrt(values.reduce((sum, value) => sum + value * value, 0) / values.length);
  const [one, two] = await noisy("a");
  // 6144 draws: the standard deviation is known to about 1 %.
  for (const copy of [one, two])
    expect(rms(copy.map((value, k) => value - dense[k]!)) / rms(dense)).toBeCloseTo(0.1, 2);
  expect(one).not.toEqual(two);
  expect(await noisy("b")).toEqual([one, two]);
});

it("takes the seed as a generalist, names experts, and compares configurations field by field", async () => {
  const folder = temporaryFolder();
  const [a, b, seed] = await Promise.all(
    ["a", "b", "seed"].map((name, i) => writeCheckpoint(join(folder, name), { seed: i })),
  );
  const options = { experts: [a!, b!], generalist: seed!, output: join(folder, "moe") };
  const { compared } = await planMix({ ...options, names: ["code", "prose"] });
  expect(compared.find(({ field }) => field === "rope_theta")).toEqual({
    field: "rope_theta",
    values: [5e4, 5e4, 5e4],
    equal: true,
  });
  await mix(options);
  const names = ["a", "b", "generalist"];
  expect(json(options.output, "config.json").trefoil.expert_names).toEqual(names);
  expect(json(options.output, "config.json").model_type).toBe("mixtral");
  expect(json(options.output, "btx_mix.json").experts).toHaveLength(3);
  expect((await planMix({ ...options, experts: [a!, b!, join(folder, "b", "..", "a")] })).notes).toEqual([
    expect.stringMatching(/a is given more than once/),
  ]);
  expect((await planMix(options)).notes).toEqual([]);
  const taken = planMix({ ...options, names: ["generalist", "prose"] });
  await expect(taken).rejects.toMatchObject({ code: "MIX_OPTIONS" });
  await expect(planMix({ ...options, names: ["x", "x"] })).rejects.toMatchObject({ code: "MIX_OPTIONS" });
  await expect(planMix({ ...options, arrange: { kind: "split", chunks: 5 } })).rejects.toMatchObject({
    code: "MIX_OPTIONS",
  });
});

it("mixes Mistral folders; carries a window that all have, and refuses to compute with it", async () => {
  const folder = temporaryFolder();
  const make = (name: string, seed: number, slidingWindow?: number) =>
    writeCheckpoint(join(folder, name), {
      seed,
      config: { family: "mistral", ...(slidingWindow && { slidingWindow }) },
    });
  await mix({ experts: [await make("a", 1), await make("b", 2)], output: join(folder, "open") });
  expect(json(join(folder, "open"), "config.json")).toMatchObject({ model_type: "mixtral", sliding_window: null });
  expect((await logits(join(folder, "open"))).every(Number.isFinite)).toBe(true);
  await mix({ experts: [await make("c", 1, 32), await make("d", 2, 32)], output: join(folder, "windowed") });
  expect(json(join(folder, "windowed"), "config.json").sliding_window).toBe(32);
  await expect(OpenModel.open(join(folder, "windowed"))).rejects.toThrow("sliding_window 32");
});

it("names a shard that is missing", async () => {
  const folder = temporaryFolder();
  const a = await writeCheckpoint(join(folder, "a"), { seed: 1 });
  const b = await writeCheckpoint(join(folder, "b"), { seed: 2, shardBytes: 4000 });
  const shard = Object.values(json(b, "model.safetensors.index.json").weight_map)[0] as string;
  rmSync(join(b, shard));
  await expect(mix({ experts: [a, b], output: join(folder, "moe") })).rejects.toMatchObject({
    code: "MODEL_FOLDER_MISSING_SHARD",
    message: expect.stringContaining(shard),
  });
});
