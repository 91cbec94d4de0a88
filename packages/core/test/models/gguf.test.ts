import { mkdtemp, readdir, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { bf16ToF32 } from "../../src/io/half.js";
import { createModel, saveGguf } from "../../src/models/index.js";
import { inverseFrequencies } from "../../src/nn/rotary.js";
import { ByteTokenizer, makeTokenizer, trainBpe } from "../../src/text/index.js";

const config = {
  vocabSize: 300,
  hiddenSize: 16,
  intermediateSize: 24,
  layers: 2,
  heads: 4,
  keyValueHeads: 2,
  headDim: 4,
  rmsNormEps: 1e-5,
  ropeTheta: 1e4,
  tieWordEmbeddings: false,
  maxPositions: 32,
  initializerRange: 0.02,
} as const;

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "trefoil-gguf-"));
});
afterAll(() => rm(folder, { recursive: true, force: true }));

/** An independent reader of what the format's description says. */
async function readGguf(path: string) {
  const bytes = await readFile(path);
  let at = 0;
  const take = (size: number): number => {
    at += size;
    return at - size;
  };
  const u32 = () => bytes.readUInt32LE(take(4));
  const u64 = () => Number(bytes.readBigUInt64LE(take(8)));
  const string = () => {
    const length = u64();
    const start = take(length);
    return bytes.toString("utf8", start, start + length);
  };
  const value = (type: number): unknown => {
    if (type === 4) return u32();
    if (type === 5) return bytes.readInt32LE(take(4));
    if (type === 6) return bytes.readFloatLE(take(4));
    if (type === 7) return bytes[take(1)] === 1;
    if (type === 8) return string();
    expect(type).toBe(9);
    const inner = u32();
    return Array.from({ length: u64() }, () => value(inner));
  };
  expect(bytes.toString("latin1", 0, 4)).toBe("GGUF");
  at = 4;
  expect(u32()).toBe(3);
  const [tensorCount, fieldCount] = [u64(), u64()];
  const fields = Object.fromEntries(
    Array.from({ length: fieldCount }, () => {
      const key = string();
      return [key, value(u32())];
    }),
  );
  const infos = Array.from({ length: tensorCount }, () => {
    const name = string();
    const dimensions = Array.from({ length: u32() }, () => u64());
    return { name, dimensions, type: u32(), offset: u64() };
  });
  const start = Math.ceil(at / 32) * 32;
  const tensors = new Map(
    infos.map(({ name, dimensions, type, offset }) => {
      expect(offset % 32).toBe(0);
      const size = dimensions.reduce((product, each) => product * each, 1);
      const raw = bytes.subarray(start + offset, start + offset + size * (type === 0 ? 4 : 2)).slice();
      expect(raw.length).toBe(size * (type === 0 ? 4 : 2));
      const values =
        type === 0
          ? new Float32Array(raw.buffer, raw.byteOffset, size)
          : bf16ToF32(new Uint16Array(raw.buffer, raw.byteOffset, size));
      return [name, { dimensions, type, values }] as const;
    }),
  );
  return { fields, tensors };
}

test("a Llama's tensors have llama.cpp's names, order of dimensions and rotation", async () => {
  const model = createModel(config, 3);
  const path = join(folder, "llama.gguf");
  await saveGguf(model, path, { tokenizer: new ByteTokenizer() });
  const { fields, tensors } = await readGguf(path);
  expect(fields).toMatchObject({
    "general.architecture": "llama",
    "llama.block_count": 2,
    "llama.attention.head_count_kv": 2,
    "llama.rope.freq_base": 1e4,
    "tokenizer.ggml.bos_token_id": 256,
  });
  expect(fields["tokenizer.ggml.tokens"]).toHaveLength(300);
  expect((fields["tokenizer.ggml.token_type"] as number[]).slice(254)).toEqual([1, 1, 3, 3, ...Array(42).fill(5)]);
  expect(tensors.size).toBe(3 + 2 * 9);

  const parameters = model.namedParameters();
  const values = async (name: string) => (await parameters.get(name)!.data()) as Float32Array;
  expect(tensors.get("blk.1.ffn_down.weight")).toEqual({
    dimensions: [24, 16],
    type: 0,
    values: await values("model.layers.1.mlp.down_proj"),
  });
  const gateUp = await values("model.layers.0.mlp.gate_up_proj");
  expect(tensors.get("blk.0.ffn_gate.weight")!.values).toEqual(gateUp.slice(0, 24 * 16));
  expect(tensors.get("blk.0.ffn_up.weight")!.values).toEqual(gateUp.slice(24 * 16));

  // Scores q·k under llama.cpp's rotation of neighbours, and under ours of halves.
  const x = Float64Array.from({ length: 16 }, (_, i) => Math.sin(i + 1));
  const project = (weight: Float32Array, head: number) =>
    Array.from({ length: 4 }, (_, r) => x.reduce((sum, v, i) => sum + v * weight[(head * 4 + r) * 16 + i]!, 0));
  const rotate = (v: number[], position: number, pairs: [number, number][]) => {
    const result = [...v];
    pairs.forEach(([a, b], i) => {
      const angle = position * 1e4 ** (-i / 2);
      result[a] = v[a]! * Math.cos(angle) - v[b]! * Math.sin(angle);
      result[b] = v[a]! * Math.sin(angle) + v[b]! * Math.cos(angle);
    });
    return result;
  };
  const score = (q: Float32Array, k: Float32Array, pairs: [number, number][]) => {
    const [left, right] = [rotate(project(q, 3), 7, pairs), rotate(project(k, 1), 2, pairs)];
    return left.reduce((sum, each, i) => sum + each * right[i]!, 0);
  };
  const attention = "model.layers.0.self_attn";
  const ours = score(await values(`${attention}.q_proj.weight`), await values(`${attention}.k_proj.weight`), [
    [0, 2],
    [1, 3],
  ]);
  const theirs = score(tensors.get("blk.0.attn_q.weight")!.values, tensors.get("blk.0.attn_k.weight")!.values, [
    [0, 1],
    [2, 3],
  ]);
  expect(theirs).toBeCloseTo(ours, 12);
});

test("matrices may be BF16, experts are stacked, and scaled rotations come as factors", async () => {
  const ropeScaling = { type: "linear", factor: 4 } as const;
  const model = createModel({ ...config, experts: 3, expertsPerToken: 2, ropeScaling }, 3);
  const path = join(folder, "mixtral.gguf");
  await saveGguf(model, path, { tokenizer: new ByteTokenizer(), dtype: "BF16" });
  const { fields, tensors } = await readGguf(path);
  expect(fields).toMatchObject({ "llama.expert_count": 3, "llama.expert_used_count": 2, "general.file_type": 32 });
  const up = tensors.get("blk.0.ffn_up_exps.weight")!;
  expect([up.dimensions, up.type]).toEqual([[16, 24, 3], 30]);
  const gateUp = (await model
    .namedParameters()
    .get("model.layers.0.block_sparse_moe.gate_up_proj")!
    .data()) as Float32Array;
  const last = gateUp.slice(-24 * 16);
  up.values.slice(-24 * 16).forEach((value, i) => {
    // Eight bits of significand: half a unit in the last is 2^-9.
    expect(Math.abs(value - last[i]!)).toBeLessThanOrEqual(2 ** -8 * Math.abs(last[i]!));
  });
  for (const name of ["blk.0.attn_norm.weight", "blk.0.ffn_gate_inp.weight"]) expect(tensors.get(name)!.type).toBe(0);
  const plain = inverseFrequencies(4, 1e4);
  const scaled = inverseFrequencies(4, 1e4, ropeScaling);
  expect([...tensors.get("rope_freqs.weight")!.values]).toEqual([...plain].map((each, i) => each / scaled[i]!));
});

test("a trained tokenizer keeps its merges; what cannot be expressed is refused and leaves no file", async () => {
  const tokenizer = await trainBpe(["low lower lowest"], { vocabSize: 262 });
  const model = createModel(config);
  const path = join(folder, "bpe.gguf");
  await saveGguf(model, path, { tokenizer });
  const { fields } = await readGguf(path);
  expect(fields["tokenizer.ggml.merges"]).toContain("l o");

  const { definition, config: settings } = tokenizer;
  const lowercase = makeTokenizer({ ...definition, normalizer: { type: "Lowercase" } }, settings);
  const refused = saveGguf(model, join(folder, "no.gguf"), { tokenizer: lowercase });
  await expect(refused).rejects.toMatchObject({ code: "TREFOIL_GGUF_UNSUPPORTED" });
  const partial = createModel({ ...config, experts: 2, expertsPerToken: 1, moeLayers: [1] });
  const mixed = saveGguf(partial, join(folder, "no.gguf"), { tokenizer });
  await expect(mixed).rejects.toThrow("mixture in every layer; this model has 1 of 2");
  expect(await readdir(folder)).not.toContain("no.gguf");
});
