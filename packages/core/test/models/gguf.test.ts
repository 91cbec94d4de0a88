import { mkdir, mkdtemp, readdir, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { exportCommand } from "../../src/export/command.js";
import { bf16ToF32 } from "../../src/io/half.js";
import { createModel, saveGguf, saveModel } from "../../src/models/index.js";
import { inverseFrequencies } from "../../src/nn/rotary.js";
import { ByteTokenizer, makeTokenizer, saveTokenizer, trainBpe } from "../../src/text/index.js";
import { runInMemory } from "../cli/run-in-memory.js";

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

const special = (...contents: string[]) => contents.map((content, id) => ({ id, content, special: true }));
const begins = (bos: string) => ({
  type: "TemplateProcessing",
  single: [{ SpecialToken: { id: bos } }, { Sequence: { id: "A" } }],
});

/** Llama 2's kind: spaces are "▁", merges in the order of the tokens' scores, other characters as bytes. */
function sentencePiece(merges: string[], pieces = ["▁", "a", "b", "c"], extra: object = {}) {
  const bytes = Array.from({ length: 256 }, (_, byte) => `<0x${byte.toString(16).toUpperCase().padStart(2, "0")}>`);
  const made = [...new Set(merges.map((merge) => merge.replace(" ", "")))];
  const vocab = Object.fromEntries(
    ["<unk>", "<s>", "</s>", ...bytes, ...pieces, ...made].map((token, id) => [token, id]),
  );
  const definition = {
    added_tokens: special("<unk>", "<s>", "</s>"),
    normalizer: {
      type: "Sequence",
      normalizers: [
        { type: "Prepend", prepend: "▁" },
        { type: "Replace", pattern: { String: " " }, content: "▁" },
      ],
    },
    pre_tokenizer: null,
    post_processor: begins("<s>"),
    decoder: { type: "Sequence", decoders: [{ type: "ByteFallback" }, { type: "Fuse" }] },
    model: { type: "BPE", unk_token: "<unk>", fuse_unk: true, byte_fallback: true, vocab, merges },
    ...extra,
  };
  return makeTokenizer(definition, { bos_token: "<s>", eos_token: "</s>", chat_template: "{{ messages }}" });
}

test("SentencePiece's BPE comes with scores that join as its merges do", async () => {
  const tokenizer = sentencePiece(["a b", "▁ ab", "▁a b", "▁ a", "▁ ▁", "▁▁ ▁▁", "▁▁ ▁", "▁▁▁ ▁", "▁ ▁▁▁", "▁ ▁▁"]);
  const model = createModel(config);
  const path = join(folder, "sentencepiece.gguf");
  await saveGguf(model, path, { tokenizer });
  const { fields } = await readGguf(path);
  expect(fields).toMatchObject({
    "tokenizer.ggml.model": "llama",
    "tokenizer.ggml.add_space_prefix": true,
    "tokenizer.ggml.add_bos_token": true,
    "tokenizer.ggml.unknown_token_id": 0,
    "tokenizer.chat_template": "{{ messages }}",
  });
  const names = fields["tokenizer.ggml.tokens"] as string[];
  const score = (token: string) => (fields["tokenizer.ggml.scores"] as number[])[names.indexOf(token)]!;
  const ranked = ["ab", "▁ab", "▁a", "▁▁", "▁▁▁▁"].map(score);
  expect(ranked).toEqual(ranked.toSorted((a, b) => b - a));
  expect(new Set(ranked).size).toBe(5);
  // Their merges lie between one another, so that they are equal and lowest.
  expect([score("▁▁▁"), score("▁▁▁▁")]).toEqual([-300, -300]);
  const types = fields["tokenizer.ggml.token_type"] as number[];
  expect([0, 1, 2, 3, 258, 259].map((id) => types[id])).toEqual([2, 3, 3, 6, 6, 1]);
});

test.each([
  [
    "merges of other tokens between those of one",
    ["a b", "b c", "a bc", "▁ a", "ab c"],
    'other merges come between those to "abc"',
  ],
  ["a way of being cut that is no merge", ["a b", "b c", "ab c"], 'would join "a" and "bc" to "abc"'],
])("a tokenizer with %s is refused", async (_, merges, message) => {
  const refused = saveGguf(createModel(config), join(folder, "no.gguf"), { tokenizer: sentencePiece(merges) });
  await expect(refused).rejects.toMatchObject({
    code: "TREFOIL_GGUF_UNSUPPORTED",
    message: expect.stringContaining(message),
  });
});

test("the space before a text is told from how the tokenizer puts it there", async () => {
  const replaceOnly = { type: "Replace", pattern: { String: " " }, content: "▁" };
  const metaspace = (scheme: string, split = false) => ({
    normalizer: null,
    pre_tokenizer: { type: "Metaspace", replacement: "▁", prepend_scheme: scheme, split },
  });
  for (const [extra, prefix] of [
    [{ normalizer: replaceOnly }, false],
    [metaspace("first"), true],
    [metaspace("never"), false],
  ] as const) {
    const path = join(folder, "prefix.gguf");
    await saveGguf(createModel(config), path, { tokenizer: sentencePiece(["a b"], undefined, extra) });
    expect((await readGguf(path)).fields["tokenizer.ggml.add_space_prefix"]).toBe(prefix);
  }
  for (const extra of [
    metaspace("first", true),
    { normalizer: { type: "Lowercase" } },
    { pre_tokenizer: { type: "Whitespace" } },
  ]) {
    const refused = saveGguf(createModel(config), join(folder, "no.gguf"), {
      tokenizer: sentencePiece(["a b"], undefined, extra),
    });
    await expect(refused).rejects.toMatchObject({ code: "TREFOIL_GGUF_UNSUPPORTED" });
  }
});

test("byte-level BPE with Llama 3's split has the name that llama.cpp gives that split", async () => {
  const { definition } = await trainBpe(["low lower lowest"], { vocabSize: 262 });
  const regex =
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
  const like = (Regex: string, model: object = {}) =>
    makeTokenizer(
      {
        ...definition,
        pre_tokenizer: {
          type: "Sequence",
          pretokenizers: [
            { type: "Split", pattern: { Regex }, behavior: "Isolated", invert: false },
            { type: "ByteLevel", add_prefix_space: false, trim_offsets: true, use_regex: false },
          ],
        },
        model: { ...definition.model, ...model },
      },
      {},
    );
  const path = join(folder, "llama3.gguf");
  for (const [model, name] of [
    [{ ignore_merges: true }, "llama-bpe"],
    [{}, "smaug-bpe"],
  ] as const) {
    await saveGguf(createModel(config), path, { tokenizer: like(regex, model) });
    expect((await readGguf(path)).fields).toMatchObject({
      "tokenizer.ggml.model": "gpt2",
      "tokenizer.ggml.pre": name,
      "tokenizer.ggml.add_bos_token": false,
    });
  }
  const other = saveGguf(createModel(config), path, { tokenizer: like("\\p{L}+|\\P{L}+") });
  await expect(other).rejects.toMatchObject({ code: "TREFOIL_GGUF_UNSUPPORTED" });
});

test("trefoil export writes a folder as a file, and replaces one only when it is told to", async () => {
  const model = createModel({ ...config, experts: 3, expertsPerToken: 2 }, 3);
  const tokenizer = new ByteTokenizer();
  const from = join(folder, "mixture");
  await saveModel(model, from, {
    config: { ...config, experts: 3, expertsPerToken: 2, family: "mixtral", eosTokenIds: [257] },
  });
  await saveTokenizer(from, tokenizer);
  const to = join(folder, "exported.gguf");
  const run = (...flags: string[]) =>
    runInMemory([exportCommand], ["export", "--model", from, "--output", to, ...flags]);
  expect(await run()).toMatchObject({ code: 0, stdout: expect.stringMatching(/exported\.gguf: 0\.\d MB/) });
  const whole = await readFile(to);
  const direct = join(folder, "direct.gguf");
  await saveGguf(model, direct, { tokenizer, name: "mixture" });
  expect(whole.equals(await readFile(direct))).toBe(true);
  expect(await run("--dtype", "F16")).toMatchObject({ code: 2, stderr: expect.stringContaining("give --overwrite") });
  expect((await readFile(to)).equals(whole)).toBe(true);
  expect((await run("--dtype", "F16", "--overwrite")).code).toBe(0);
  expect((await readGguf(to)).fields["general.file_type"]).toBe(1);
  await mkdir(join(folder, "sub"));
  const into = ["export", "--model", from, "--output", join(folder, "sub"), "--overwrite"];
  expect(await runInMemory([exportCommand], into)).toMatchObject({
    code: 2,
    stderr: expect.stringContaining("is a folder"),
  });
});
