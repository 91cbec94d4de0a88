import { type GgufDtype, type GgufTensor, type GgufValue, writeGguf } from "../io/gguf-writer.js";
import { bf16ToF32 } from "../io/half.js";
import { inverseFrequencies } from "../nn/rotary.js";
import type { Parameter } from "../tensor/tensor.js";
import type { Tokenizer } from "../text/index.js";
import type { CausalLM } from "./causal-lm.js";
import { f32, GgufError, text, u32 } from "./gguf-values.js";
import { ggufVocabulary } from "./gguf-vocabulary.js";
import { Mixtral } from "./mixtral.js";
import { diskLayout } from "./weights.js";

export interface SaveGgufOptions {
  /** Bytes, byte-level BPE split as GPT-2 or Llama 3 splits, or SentencePiece's BPE as Llama 2 and Mistral have it. Its chat template is written too. */
  tokenizer: Tokenizer;
  /** Of matrices; norms and routers are always F32, as llama.cpp wants them. Default "F32". */
  dtype?: GgufDtype;
  /** `general.name`. Default "trefoil". */
  name?: string;
}

/**
 * Writes a Llama or Mixtral as a GGUF file that llama.cpp runs, tokenizer included; it appears whole or not at all.
 * @throws GgufError for another tokenizer, a router other than Mixtral's, or mixtures in some layers only; InvalidUseError for a
 * parameter that the architecture does not have
 */
export async function saveGguf(model: CausalLM, path: string, options: SaveGgufOptions): Promise<void> {
  const { tokenizer, dtype = "F32", name = "trefoil" } = options;
  const metadata = {
    "general.architecture": text("llama"),
    "general.name": text(name),
    "general.file_type": u32(fileTypes[dtype]),
    ...architecture(model),
    ...ggufVocabulary(tokenizer, model.config.vocabSize),
  };
  await writeGguf(path, metadata, tensorsOf(model, dtype));
}

/** llama.cpp's `llama_ftype`: what most tensors are. */
const fileTypes = { F32: 0, F16: 1, BF16: 32 } as const;

function architecture(model: CausalLM): Record<string, GgufValue> {
  const { config } = model;
  const fields: Record<string, GgufValue> = {
    "llama.vocab_size": u32(config.vocabSize),
    "llama.context_length": u32(config.maxPositions),
    "llama.embedding_length": u32(config.hiddenSize),
    "llama.block_count": u32(config.layers),
    "llama.feed_forward_length": u32(config.intermediateSize),
    "llama.attention.head_count": u32(config.heads),
    "llama.attention.head_count_kv": u32(config.keyValueHeads),
    "llama.attention.key_length": u32(config.headDim),
    "llama.attention.value_length": u32(config.headDim),
    "llama.attention.layer_norm_rms_epsilon": f32(config.rmsNormEps),
    "llama.rope.dimension_count": u32(config.headDim),
    "llama.rope.freq_base": f32(config.ropeTheta),
  };
  if (!(model instanceof Mixtral)) return fields;
  const { experts, expertsPerToken, router, moeLayers, layers } = model.config;
  if (router && (router.kind !== "top-k" || router.softFirstLayer))
    throw new GgufError(`llama.cpp routes to the top experts only, and this model's router is "${router.kind}"`);
  if (moeLayers && moeLayers.length < layers)
    throw new GgufError(`llama.cpp needs a mixture in every layer; this model has ${moeLayers.length} of ${layers}`);
  return { ...fields, "llama.expert_count": u32(experts), "llama.expert_used_count": u32(expertsPerToken) };
}

const layerNames: Readonly<Record<string, string>> = {
  "self_attn.o_proj.weight": "attn_output.weight",
  "self_attn.v_proj.weight": "attn_v.weight",
  "input_layernorm.weight": "attn_norm.weight",
  "post_attention_layernorm.weight": "ffn_norm.weight",
  "mlp.down_proj": "ffn_down.weight",
  "block_sparse_moe.gate": "ffn_gate_inp.weight",
  "block_sparse_moe.down_proj": "ffn_down_exps.weight",
};
const outerNames: Readonly<Record<string, string>> = {
  "model.embed_tokens.weight": "token_embd.weight",
  "model.norm.weight": "output_norm.weight",
  "lm_head.weight": "output.weight",
};

function tensorsOf(model: CausalLM, dtype: GgufDtype): GgufTensor[] {
  const { heads, keyValueHeads } = model.config;
  diskLayout(model); // refuses what is no tensor of the architecture
  const tensors = [...model.namedParameters()].flatMap(([name, parameter]): GgufTensor[] => {
    const read = () => valuesOf(parameter);
    const { shape } = parameter;
    const one = (gguf: string, through: (values: Float32Array) => Float32Array = (values) => values): GgufTensor => ({
      name: gguf,
      shape,
      dtype: shape.length < 2 || gguf.endsWith("ffn_gate_inp.weight") ? "F32" : dtype,
      read: async () => through(await read()),
    });
    const [, layer, leaf] = /^model\.layers\.(\d+)\.(.+)$/.exec(name) ?? [];
    if (leaf === undefined) return [one(outerNames[name]!)];
    const block = `blk.${layer}`;
    const known = layerNames[leaf];
    if (known) return [one(`${block}.${known}`)];
    if (leaf === "self_attn.q_proj.weight")
      return [one(`${block}.attn_q.weight`, (values) => interleaveHalves(values, heads, shape))];
    if (leaf === "self_attn.k_proj.weight")
      return [one(`${block}.attn_k.weight`, (values) => interleaveHalves(values, keyValueHeads, shape))];
    // Gate rows, then up rows, expert after expert.
    const suffix = shape.length === 3 ? "_exps.weight" : ".weight";
    return ["gate", "up"].map((kind, half) => {
      const [rows, width] = [shape.at(-2)! / 2, shape.at(-1)!];
      return {
        name: `${block}.ffn_${kind}${suffix}`,
        shape: [...shape.slice(0, -2), rows, width],
        dtype,
        read: async () => everySecond(await read(), rows * width, half),
      };
    });
  });
  const { headDim, ropeTheta, ropeScaling } = model.config;
  if (!ropeScaling) return tensors;
  // Frequencies are divided by these.
  const plain = inverseFrequencies(headDim, ropeTheta);
  const factors = inverseFrequencies(headDim, ropeTheta, ropeScaling).map((frequency, i) => plain[i]! / frequency);
  return [...tensors, { name: "rope_freqs.weight", shape: [headDim / 2], dtype: "F32", read: async () => factors }];
}

async function valuesOf(parameter: Parameter): Promise<Float32Array> {
  const data = await parameter.data();
  return data instanceof Uint16Array ? bf16ToF32(data) : Float32Array.from(data);
}

/** llama.cpp rotates neighbours where Hugging Face's layout rotates the halves of a head: row i and i + half become 2i, 2i + 1. */
function interleaveHalves(values: Float32Array, heads: number, [rows, width]: readonly number[]): Float32Array {
  const result = new Float32Array(values.length);
  const headDim = rows! / heads;
  for (let row = 0; row < rows!; row++) {
    const [head, within] = [Math.floor(row / headDim), row % headDim];
    const from = head * headDim + (within % 2) * (headDim / 2) + Math.floor(within / 2);
    result.set(values.subarray(from * width!, (from + 1) * width!), row * width!);
  }
  return result;
}

/** Runs of `size` values: the first, third, … with `half` 0, the others with 1. */
function everySecond(values: Float32Array, size: number, half: number): Float32Array {
  const result = new Float32Array(values.length / 2);
  for (let at = half * size, to = 0; at < values.length; at += 2 * size, to += size)
    result.set(values.subarray(at, at + size), to);
  return result;
}
