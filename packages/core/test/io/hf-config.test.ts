import { readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { hubJson, llamaConfigJson, mixtralConfigJson, parseTransformerConfig } from "../../src/io/index.js";
import { fixtures } from "./folders.js";

/** `to_dict()` of configurations made with transformers 5.18. */
const written = JSON.parse(readFileSync(join(fixtures, "configs.json"), "utf8")) as Record<string, Record<string, unknown>>;

const llama3Scaling = { type: "llama3", factor: 8, lowFrequencyFactor: 1, highFrequencyFactor: 4, originalMaxPositions: 1024 };

describe("configurations of transformers 5", () => {
  it.each(["llama", "mistral", "mixtral"])("fills in the defaults of %s where a file says nothing", (family) => {
    const { raw: _all, ...full } = parseTransformerConfig(written[`${family}-default`]);
    const { raw: _none, ...bare } = parseTransformerConfig({ model_type: family });
    expect(bare).toEqual(full);
    expect(full.slidingWindow).toBe(family === "mistral" ? 4096 : undefined);
    expect(full.ropeTheta).toBe(family === "mixtral" ? 1e6 : 1e4);
    expect(full.rmsNormEps).toBe(family === "mixtral" ? 1e-5 : 1e-6);
    expect(full.keyValueHeads).toBe(family === "llama" ? 32 : 8);
  });

  it("reads llama3 scaling, ties, several end ids", () => {
    expect(parseTransformerConfig(written.llama3)).toMatchObject({
      family: "llama",
      ropeTheta: 5e5,
      ropeScaling: llama3Scaling,
      keyValueHeads: 2,
      headDim: 16,
      tieWordEmbeddings: true,
      eosTokenIds: [5, 6],
      dtype: "bfloat16",
    });
  });

  it("reads experts, head_dim and an absent window", () => {
    expect(parseTransformerConfig(written.mixtral)).toMatchObject({
      family: "mixtral",
      experts: 4,
      expertsPerToken: 2,
      routerAuxLossCoef: 0.001,
      headDim: 32,
      ropeTheta: 1e4,
      padTokenId: 0,
    });
    expect(parseTransformerConfig(written["mistral-nowindow"])).not.toHaveProperty("slidingWindow");
  });
});

describe("configurations of transformers 4", () => {
  const v4 = { model_type: "llama", hidden_size: 64, num_attention_heads: 4, rope_theta: 1e6, torch_dtype: "float16" };

  it("reads rope_theta, rope_scaling and torch_dtype", () => {
    expect(parseTransformerConfig(v4)).toMatchObject({ ropeTheta: 1e6, dtype: "float16" });
    expect(parseTransformerConfig(v4)).not.toHaveProperty("ropeScaling");
    expect(parseTransformerConfig({ ...v4, rope_scaling: { type: "linear", factor: 4 } }).ropeScaling).toEqual({ type: "linear", factor: 4 });
    const raw = { rope_type: "yarn", factor: 4, beta_fast: 32 };
    expect(parseTransformerConfig({ ...v4, rope_scaling: raw }).ropeScaling).toEqual({ type: "other", raw });
  });

  it("lets rope_parameters win, as transformers does", () => {
    const both = { ...v4, rope_parameters: { rope_type: "default", rope_theta: 7 } };
    expect(parseTransformerConfig(both).ropeTheta).toBe(7);
  });
});

it.each([
  [{ attention_bias: true }, "MODEL_FOLDER_UNSUPPORTED_CONFIG", "attention_bias"],
  [{ mlp_bias: true }, "MODEL_FOLDER_UNSUPPORTED_CONFIG", "mlp_bias"],
  [{ hidden_act: "gelu" }, "MODEL_FOLDER_UNSUPPORTED_CONFIG", "gelu"],
  [{ model_type: "gpt2" }, "MODEL_FOLDER_UNSUPPORTED_CONFIG", "gpt2"],
  [{ rope_parameters: { rope_theta: 1, partial_rotary_factor: 0.5 } }, "MODEL_FOLDER_UNSUPPORTED_CONFIG", "partial_rotary_factor"],
  [{ rope_parameters: { full_attention: { rope_theta: 1 } } }, "MODEL_FOLDER_UNSUPPORTED_CONFIG", "layer"],
  [{ rope_scaling: { rope_type: "linear" } }, "MODEL_FOLDER_INVALID_CONFIG", "factor"],
  [{ rope_scaling: { rope_type: "llama3", factor: 8 } }, "MODEL_FOLDER_INVALID_CONFIG", "low_freq_factor"],
  [{ vocab_size: "many" }, "MODEL_FOLDER_INVALID_CONFIG", "vocab_size"],
  [{ num_key_value_heads: 3 }, "MODEL_FOLDER_INVALID_CONFIG", "num_key_value_heads"],
  [{ hidden_size: 100 }, "MODEL_FOLDER_INVALID_CONFIG", "hidden_size"],
  [{ model_type: "mixtral", num_experts_per_tok: 9 }, "MODEL_FOLDER_INVALID_CONFIG", "num_experts_per_tok"],
  [{ model_type: undefined }, "MODEL_FOLDER_INVALID_CONFIG", "model_type"],
])("refuses %j", (fields, code, word) => {
  expect(() => parseTransformerConfig({ model_type: "llama", ...fields })).toThrow(expect.objectContaining({ code, message: expect.stringContaining(word) }));
});

it("writes what it reads, in both spellings", () => {
  for (const [name, json] of Object.entries(written)) {
    const { raw: _raw, dtype: _dtype, ...fields } = parseTransformerConfig(json);
    const again = fields.family === "mixtral" ? mixtralConfigJson(fields, "float32") : llamaConfigJson(fields, "float32");
    const { raw: _again, dtype, ...reread } = parseTransformerConfig(again);
    expect(reread, name).toEqual(fields);
    expect(dtype).toBe("float32");
    expect(again).toMatchObject({ rope_theta: fields.ropeTheta, rope_parameters: { rope_theta: fields.ropeTheta }, torch_dtype: "float32" });
    // What transformers 4 reads, it reads alike.
    const { rope_parameters: _rope, dtype: _v5, ...v4 } = again;
    const { raw: _v4raw, dtype: _v4, ...old } = parseTransformerConfig(v4);
    expect(old, name).toEqual(fields);
  }
});

it("writes whole-number floats as floats, which transformers 5 insists on", () => {
  const { raw: _raw, ...fields } = parseTransformerConfig(written.mixtral);
  const text = hubJson(mixtralConfigJson({ ...fields, routerAuxLossCoef: 0, rmsNormEps: 1e-5, ropeScaling: { type: "linear", factor: 4 } }, "float32"));
  for (const line of ['"router_aux_loss_coef": 0.0,', '"router_jitter_noise": 0.0', '"rope_theta": 10000.0', '"factor": 4.0', '"rms_norm_eps": 0.00001,', '"hidden_size": 64,']) {
    expect(text).toContain(line);
  }
  expect(JSON.parse(text)).toMatchObject({ rope_scaling: { factor: 4 } });
});
