import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { ModelFolder } from "@trefoil/core";
import { describe, expect, it } from "vitest";
import { mix, planMix } from "../../src/index.js";
import { temporaryFolder, tinyConfig, writeCheckpoint } from "../checkpoints.js";

const json = (folder: string, name: string) => JSON.parse(readFileSync(join(folder, name), "utf8"));

async function readAll(path: string): Promise<Map<string, Float32Array>> {
  await using folder = await ModelFolder.open(path);
  const all = new Map<string, Float32Array>();
  for (const name of folder.tensors.keys()) all.set(name, await folder.readF32(name));
  return all;
}

/** The mixture written out in plain loops, without streaming. */
function mixByHand(sources: Map<string, Float32Array>[], weights: number[]): Map<string, number[]> {
  const out = new Map<string, number[]>();
  for (const name of sources[0]!.keys()) {
    const projection = /mlp\.(gate|up|down)_proj/.exec(name)?.[1];
    if (projection) {
      const short = { gate: "w1", up: "w3", down: "w2" }[projection];
      const layer = name.split(".mlp.")[0];
      sources.forEach((source, e) => {
        out.set(`${layer}.block_sparse_moe.experts.${e}.${short}.weight`, [...source.get(name)!]);
      });
    } else {
      const size = sources[0]!.get(name)!.length;
      out.set(
        name,
        Array.from({ length: size }, (_, k) =>
          Math.fround(sources.reduce((sum, source, i) => sum + weights[i]! * source.get(name)![k]!, 0)),
        ),
      );
    }
  }
  return out;
}

async function threeExperts(folder: string): Promise<string[]> {
  return [
    await writeCheckpoint(join(folder, "a"), { seed: 1 }),
    await writeCheckpoint(join(folder, "b"), { seed: 2, shardBytes: 4000 }),
    await writeCheckpoint(join(folder, "c"), { seed: 3 }),
  ];
}

describe("mix", () => {
  it("equals the definition computed by hand, for single files and shards", async () => {
    const folder = temporaryFolder();
    const experts = await threeExperts(folder);
    const output = join(folder, "moe");
    await mix({ experts, output, weights: [2, 1, 1], shardBytes: 5000 });
    expect(readdirSync(output).filter((name) => name.endsWith(".safetensors")).length).toBeGreaterThan(1);
    const mixed = await readAll(output);
    const expected = mixByHand(await Promise.all(experts.map(readAll)), [0.5, 0.25, 0.25]);
    for (const [name, values] of expected) {
      const found = mixed.get(name);
      expect(found?.length, name).toBe(values.length);
      // Both are sums in double precision in another order: they may round to neighbouring floats.
      for (let k = 0; k < values.length; k++)
        expect(Math.abs(found![k]! - values[k]!)).toBeLessThanOrEqual(2 ** -23 * Math.max(1, Math.abs(values[k]!)));
      mixed.delete(name);
    }
    expect([...mixed.keys()]).toEqual([0, 1].map((layer) => `model.layers.${layer}.block_sparse_moe.gate.weight`));
  });

  it("gives N equal experts their own weights back, bit for bit", async () => {
    const folder = temporaryFolder();
    const seed = await writeCheckpoint(join(folder, "seed"), { seed: 4 });
    const { averaged, experts } = await mix({
      experts: [seed, seed, seed],
      output: join(folder, "moe"),
      weights: [0.2, 0.3, 0.1],
    });
    const [dense, mixed] = [await readAll(seed), await readAll(join(folder, "moe"))];
    for (const [name, values] of dense) {
      if (!name.includes(".mlp.")) expect(mixed.get(name), name).toEqual(values);
    }
    for (let e = 0; e < 3; e++) {
      expect(mixed.get(`model.layers.1.block_sparse_moe.experts.${e}.w2.weight`)).toEqual(
        dense.get("model.layers.1.mlp.down_proj.weight"),
      );
    }
    expect([...Object.values(averaged), ...Object.values(experts)].flat().every((distance) => distance === 0)).toBe(
      true,
    );
  });

  it("copies experts byte for byte in F16 and BF16 and widens where dtypes differ", async () => {
    const folder = temporaryFolder();
    const half = await writeCheckpoint(join(folder, "half"), { seed: 1, dtype: "BF16" });
    const other = await writeCheckpoint(join(folder, "other"), { seed: 2, dtype: "BF16" });
    const single = await writeCheckpoint(join(folder, "single"), { seed: 3, dtype: "F32" });
    await mix({ experts: [half, other], output: join(folder, "same") });
    await mix({ experts: [half, single], output: join(folder, "wide") });
    await using source = await ModelFolder.open(half);
    await using same = await ModelFolder.open(join(folder, "same"));
    await using wide = await ModelFolder.open(join(folder, "wide"));
    const target = "model.layers.0.block_sparse_moe.experts.0.w1.weight";
    expect(same.info(target).dtype).toBe("BF16");
    expect(await same.read(target)).toEqual(await source.read("model.layers.0.mlp.gate_proj.weight"));
    expect(wide.info(target).dtype).toBe("F32");
    expect(await wide.readF32(target)).toEqual(await source.readF32("model.layers.0.mlp.gate_proj.weight"));
    expect(json(join(folder, "same"), "config.json").torch_dtype).toBe("bfloat16");
  });

  it("measures how far each expert is from the average", async () => {
    const folder = temporaryFolder();
    const experts = await threeExperts(folder);
    const { averaged } = await mix({ experts, output: join(folder, "moe") });
    const name = "model.layers.1.self_attn.q_proj.weight";
    const sources = await Promise.all(experts.map(async (path) => (await readAll(path)).get(name)!));
    const mean = sources[0]!.map((_, k) => (sources[0]![k]! + sources[1]![k]! + sources[2]![k]!) / 3);
    const norm = (values: Float32Array) => Math.hypot(...values);
    const expected = sources.map((source) => norm(source.map((value, k) => value - mean[k]!)) / norm(mean));
    averaged[name]!.forEach((value, i) => {
      expect(value).toBeCloseTo(expected[i]!, 5);
    });
  });

  it("draws the same router for the same seed, with the standard deviation asked for", async () => {
    const folder = temporaryFolder();
    const config = { hiddenSize: 512, intermediateSize: 4, headDim: 128 };
    const experts = [
      await writeCheckpoint(join(folder, "a"), { seed: 1, config }),
      await writeCheckpoint(join(folder, "b"), { seed: 2, config }),
    ];
    const rows = async (output: string, seed: number) => {
      await mix({ experts, output: join(folder, output), router: { kind: "random", standardDeviation: 0.05, seed } });
      return (await readAll(join(folder, output))).get("model.layers.1.block_sparse_moe.gate.weight")!;
    };
    const first = await rows("one", 7);
    expect(await rows("two", 7)).toEqual(first);
    expect(await rows("three", 8)).not.toEqual(first);
    const deviation = Math.sqrt(first.reduce((sum, value) => sum + value * value, 0) / first.length);
    // 1024 draws: the standard deviation is known to about 2 %.
    expect(deviation).toBeGreaterThan(0.045);
    expect(deviation).toBeLessThan(0.055);
  });

  it("writes both spellings of the configuration, and carries rope_scaling", async () => {
    const folder = temporaryFolder();
    const ropeScaling = {
      type: "llama3",
      factor: 8,
      lowFrequencyFactor: 1,
      highFrequencyFactor: 4,
      originalMaxPositions: 32,
    } as const;
    const experts = [
      await writeCheckpoint(join(folder, "a"), { seed: 1, config: { ropeScaling, tieWordEmbeddings: true } }),
      await writeCheckpoint(join(folder, "b"), {
        seed: 2,
        config: { ropeScaling, tieWordEmbeddings: true, maxPositions: 128 },
      }),
    ];
    const { notes } = await mix({ experts, output: join(folder, "moe"), expertsPerToken: 1 });
    expect(notes.join("\n")).toContain("max_position_embeddings differs (64, 128)");
    const config = json(join(folder, "moe"), "config.json");
    expect(config).toMatchObject({
      architectures: ["MixtralForCausalLM"],
      model_type: "mixtral",
      num_local_experts: 2,
      num_experts_per_tok: 1,
      max_position_embeddings: 64,
      rope_theta: 5e4,
      rope_scaling: { rope_type: "llama3", factor: 8 },
      rope_parameters: { rope_type: "llama3", rope_theta: 5e4 },
      rms_norm_eps: 1e-5,
      sliding_window: null,
      tie_word_embeddings: true,
      torch_dtype: "float32",
      dtype: "float32",
    });
    expect(json(join(folder, "moe"), "generation_config.json")).toMatchObject({ bos_token_id: 256, eos_token_id: 257 });
    expect(readFileSync(join(folder, "moe", "tokenizer.json"))).toEqual(
      readFileSync(join(folder, "a", "tokenizer.json")),
    );
    expect((await readAll(join(folder, "moe"))).has("lm_head.weight")).toBe(false);
  });

  it("plans without writing: sizes and parameters, all and active", async () => {
    const folder = temporaryFolder();
    const plan = await planMix({ experts: await threeExperts(folder), output: join(folder, "moe") });
    const { hiddenSize: d, intermediateSize: f, layers, vocabSize } = tinyConfig;
    const shared = 2 * vocabSize * d + d + layers * (2 * d + 8 * d + 2 * 4 * d + d * 8);
    expect(plan.parameters).toBe(shared + layers * (3 * 3 * d * f + 3 * d));
    expect(plan.activeParameters).toBe(shared + layers * (2 * 3 * d * f + 3 * d));
    expect(plan.bytes).toBe(4 * plan.parameters);
    expect(readdirSync(folder)).toEqual(["a", "b", "c"]);
  });
});
