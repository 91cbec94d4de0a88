import { existsSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { type MixOptions, mix } from "../../src/index.js";
import { type CheckpointOptions, temporaryFolder, writeCheckpoint } from "../checkpoints.js";

/** Mixes a plain checkpoint with one made by `options`, and says how that is refused. */
async function refusal(
  options: CheckpointOptions,
  mixOptions: Partial<MixOptions> = {},
): Promise<{ code: string; message: string }> {
  const folder = temporaryFolder();
  const first = await writeCheckpoint(join(folder, "first"), { seed: 1 });
  const second = await writeCheckpoint(join(folder, "second"), { seed: 2, ...options });
  const error = await mix({ experts: [first, second], output: join(folder, "moe"), ...mixOptions }).then(
    () => ({ code: "none", message: "" }),
    (cause: { code: string; message: string }) => cause,
  );
  expect(readdirSync(folder)).toEqual(["first", "second"]);
  return error;
}

describe("mix refuses", () => {
  it.each([
    ["hidden_size", { hiddenSize: 16, headDim: 4 }, "8", "16"],
    ["intermediate_size", { intermediateSize: 16 }, "12", "16"],
    ["num_hidden_layers", { layers: 3 }, "2", "3"],
    ["num_attention_heads", { heads: 2, headDim: 4, keyValueHeads: 1 }, "4", "2"],
    ["num_key_value_heads", { keyValueHeads: 4 }, "2", "4"],
    ["head_dim", { headDim: 4 }, "2", "4"],
    ["vocab_size", { vocabSize: 260 }, "258", "260"],
    ["rms_norm_eps", { rmsNormEps: 1e-6 }, "0.00001", "0.000001"],
    ["rope_theta", { ropeTheta: 1e4 }, "50000", "10000"],
    ["rope_scaling", { ropeScaling: { type: "linear", factor: 2 } }, "null", "linear"],
    ["tie_word_embeddings", { tieWordEmbeddings: true }, "false", "true"],
    ["sliding_window", { family: "mistral", slidingWindow: 32 }, "null", "32"],
  ] as const)("a different %s, with both values and folders", async (field, config, one, two) => {
    const { code, message } = await refusal({ config });
    expect(code).toBe("MIX_INCOMPATIBLE");
    for (const part of [field, one, two, "first", "second"]) expect(message).toContain(part);
  });

  it.each([
    ["attention_bias", true],
    ["mlp_bias", true],
    ["hidden_act", "gelu"],
    ["model_type", "qwen2"],
  ])("%s %s, which a Mixtral cannot hold", async (field, value) => {
    const { code, message } = await refusal({ editConfig: (json) => Object.assign(json, { [field]: value }) });
    expect(code).toBe("MODEL_FOLDER_UNSUPPORTED_CONFIG");
    expect(message).toContain(field);
    expect(message).toContain("second");
  });

  it("a tokenizer with other added tokens", async () => {
    const folder = temporaryFolder();
    const [first, second] = [await writeCheckpoint(join(folder, "a")), await writeCheckpoint(join(folder, "b"))];
    const path = join(second, "tokenizer.json");
    const tokenizer = JSON.parse(readFileSync(path, "utf8"));
    tokenizer.added_tokens[1].content = "<|end|>";
    writeFileSync(path, JSON.stringify(tokenizer));
    await expect(mix({ experts: [first, second], output: join(folder, "moe") })).rejects.toMatchObject({
      code: "MIX_INCOMPATIBLE",
    });
    expect(existsSync(join(folder, "moe"))).toBe(false);
  });

  it.each([Number.NaN, Number.POSITIVE_INFINITY])("a weight that is %d, with its place", async (value) => {
    const name = "model.layers.1.mlp.up_proj.weight";
    for (const dtype of ["F32", "BF16", "F16"] as const) {
      const { code, message } = await refusal({
        dtype,
        editWeights: (weights) => void weights.get(name)!.fill(value, 8 * 3 + 5, 8 * 3 + 6),
      });
      expect(code).toBe("MIX_NOT_FINITE");
      expect(message).toContain(`${name} of`);
      expect(message).toContain(`${value} at [3, 5]`);
    }
  });

  it("a value too large for the output dtype", async () => {
    const large = (weights: Map<string, Float32Array>) =>
      void weights.get("model.layers.0.mlp.down_proj.weight")!.fill(1e6);
    const { code, message } = await refusal({ editWeights: large }, { outputDtype: "F16" });
    expect(code).toBe("MIX_NOT_FINITE");
    expect(message).toContain("experts.1.w2.weight holds 1000000");
  });

  it("a missing tensor, a tensor without a place, a wrong shape", async () => {
    const missing = await refusal({
      editWeights: (weights) => void weights.delete("model.layers.0.self_attn.k_proj.weight"),
    });
    expect(missing).toMatchObject({
      code: "MIX_MISSING_TENSOR",
      message: expect.stringContaining("second lacks the tensor model.layers.0.self_attn.k_proj.weight"),
    });
    const quantised = await refusal({
      editWeights: (weights) => void weights.delete("model.layers.0.mlp.up_proj.weight"),
      editConfig: (json) => Object.assign(json, { quantization_config: { quant_method: "gptq", bits: 4 } }),
    });
    expect(quantised.message).toContain(
      "second lacks the tensor model.layers.0.mlp.up_proj.weight: its weights are quantised (gptq)",
    );
    const bias = await refusal({ extra: { "model.layers.0.self_attn.q_proj.bias": [8] } });
    expect(bias).toMatchObject({ code: "MIX_UNEXPECTED_TENSOR", message: expect.stringContaining("q_proj.bias") });
    const shape = await refusal({
      config: { headDim: 4 },
      editConfig: (json) => void Object.assign(json, { head_dim: 2 }),
    });
    expect(shape).toMatchObject({
      code: "MIX_WRONG_SHAPE",
      message: expect.stringContaining("[16, 8], but config.json asks for [8, 8]"),
    });
  });

  it("an 8-bit float, with its name", async () => {
    const folder = temporaryFolder();
    const [first, second] = [
      await writeCheckpoint(join(folder, "a")),
      await writeCheckpoint(join(folder, "b"), { dtype: "BF16" }),
    ];
    const path = join(second, "model.safetensors");
    // Same number of bytes: [8] of BF16 as [16] of F8.
    const bytes = readFileSync(path, "latin1").replace(
      '"model.norm.weight":{"dtype":"BF16","shape":[8]',
      '"model.norm.weight":{"dtype":"F8_E4M3","shape":[16]',
    );
    const length = bytes.indexOf("}}") + 2 - 8;
    const header = bytes.slice(8, 8 + length);
    const oldLength = Number(readFileSync(path).readBigUInt64LE(0));
    const size = Buffer.alloc(8);
    size.writeBigUInt64LE(BigInt(header.length));
    writeFileSync(path, Buffer.concat([size, Buffer.from(header), readFileSync(path).subarray(8 + oldLength)]));
    await expect(mix({ experts: [first, second], output: join(folder, "moe") })).rejects.toMatchObject({
      code: "SAFETENSORS_UNSUPPORTED_DTYPE",
      message: expect.stringContaining('"model.norm.weight" is F8_E4M3'),
    });
  });

  it("wrong options: weights, experts per token, one expert, a mixture, an existing output", async () => {
    const codes = async (options: Partial<MixOptions>) => (await refusal({}, options)).message;
    expect(await codes({ weights: [0, 0] })).toContain("sum to 0");
    expect(await codes({ weights: [2, -1] })).toContain("a weight is -1");
    expect(await codes({ weights: [1] })).toContain("1 weights for 2 experts");
    expect(await codes({ expertsPerToken: 3 })).toContain("3 experts per token of 2");
    const folder = temporaryFolder();
    const first = await writeCheckpoint(join(folder, "first"));
    const output = join(folder, "moe");
    await expect(mix({ experts: [first], output })).rejects.toMatchObject({ code: "MIX_OPTIONS" });
    await expect(mix({ experts: [first, first], output: first, overwrite: true })).rejects.toMatchObject({
      code: "MIX_OPTIONS",
    });
    await mix({ experts: [first, first], output });
    await expect(mix({ experts: [first, first], output })).rejects.toMatchObject({ code: "MODEL_FOLDER_EXISTS" });
    await expect(mix({ experts: [first, output], output: join(folder, "again") })).rejects.toMatchObject({
      code: "MIX_NOT_DENSE",
    });
    await mix({ experts: [first, first, first], output, overwrite: true });
    expect(JSON.parse(readFileSync(join(output, "config.json"), "utf8")).num_local_experts).toBe(3);
  });

  it("a result that does not read back as it was written, and keeps nothing of it", async () => {
    const folder = temporaryFolder();
    const experts = [await writeCheckpoint(join(folder, "a")), await writeCheckpoint(join(folder, "b"))];
    /** Turns the last bit of the weights, as soon as all are written. */
    const onProgress = (done: number, total: number) => {
      if (done < total) return;
      const temporary = join(folder, readdirSync(folder).find((name) => name.startsWith(".tmp-"))!);
      const weights = join(temporary, readdirSync(temporary).find((name) => name.includes("safetensors"))!);
      const bytes = readFileSync(weights);
      bytes[bytes.length - 1]! ^= 1;
      writeFileSync(weights, bytes);
    };
    await expect(mix({ experts, output: join(folder, "moe"), onProgress })).rejects.toMatchObject({
      code: "MIX_VERIFICATION",
      message: expect.stringContaining("does not read back as it was written"),
    });
    expect(readdirSync(folder)).toEqual(["a", "b"]);
  });

  it("to go on after an abort, and leaves nothing behind", async () => {
    const controller = new AbortController();
    const { message } = await refusal({}, { signal: controller.signal, onProgress: () => controller.abort() });
    expect(message).toContain("aborted");
  });
});
