import type { TransformerConfig } from "@trefoil/core";

/** A tensor of the mixture and where it comes from. */
export interface MixtureTensor {
  /** Name in the output, in the legacy Mixtral layout: transformers reads it, and vLLM maps no other. */
  readonly name: string;
  readonly shape: readonly number[];
  readonly from:
    | { readonly kind: "average"; readonly source: string }
    | { readonly kind: "expert"; readonly source: string; readonly expert: number }
    | { readonly kind: "router"; readonly layer: number };
}

/** What a mixture's tensors depend on. */
type Sizes = Pick<
  TransformerConfig,
  | "vocabSize"
  | "hiddenSize"
  | "intermediateSize"
  | "layers"
  | "heads"
  | "keyValueHeads"
  | "headDim"
  | "tieWordEmbeddings"
>;

const projections = { w1: "gate_proj", w2: "down_proj", w3: "up_proj" } as const;

/** The shape of every tensor of a dense Llama checkpoint, by name. */
export function denseTensors(sizes: Sizes): Map<string, readonly number[]> {
  const { hiddenSize: d, intermediateSize: f, heads, keyValueHeads, headDim } = sizes;
  const shapes = new Map<string, readonly number[]>([["model.embed_tokens.weight", [sizes.vocabSize, d]]]);
  for (let layer = 0; layer < sizes.layers; layer++) {
    const prefix = `model.layers.${layer}`;
    shapes.set(`${prefix}.input_layernorm.weight`, [d]);
    shapes.set(`${prefix}.self_attn.q_proj.weight`, [heads * headDim, d]);
    shapes.set(`${prefix}.self_attn.k_proj.weight`, [keyValueHeads * headDim, d]);
    shapes.set(`${prefix}.self_attn.v_proj.weight`, [keyValueHeads * headDim, d]);
    shapes.set(`${prefix}.self_attn.o_proj.weight`, [d, heads * headDim]);
    shapes.set(`${prefix}.post_attention_layernorm.weight`, [d]);
    shapes.set(`${prefix}.mlp.gate_proj.weight`, [f, d]);
    shapes.set(`${prefix}.mlp.up_proj.weight`, [f, d]);
    shapes.set(`${prefix}.mlp.down_proj.weight`, [d, f]);
  }
  shapes.set("model.norm.weight", [d]);
  if (!sizes.tieWordEmbeddings) shapes.set("lm_head.weight", [sizes.vocabSize, d]);
  return shapes;
}

/** Every tensor of the mixture of `experts` such checkpoints, layer by layer. */
export function mixtureTensors(sizes: Sizes, experts: number): MixtureTensor[] {
  const tensors: MixtureTensor[] = [];
  for (const [name, shape] of denseTensors(sizes)) {
    const match = /^model\.layers\.(\d+)\.mlp\.(gate|up|down)_proj\.weight$/.exec(name);
    if (!match) {
      tensors.push({ name, shape, from: { kind: "average", source: name } });
      continue;
    }
    if (match[2] !== "gate") continue;
    const layer = Number(match[1]);
    const moe = `model.layers.${layer}.block_sparse_moe`;
    tensors.push({ name: `${moe}.gate.weight`, shape: [experts, sizes.hiddenSize], from: { kind: "router", layer } });
    for (const [short, long] of Object.entries(projections)) {
      const source = `model.layers.${layer}.mlp.${long}.weight`;
      const inner = long === "down_proj" ? [shape[1]!, shape[0]!] : shape;
      for (let expert = 0; expert < experts; expert++) {
        const target = `${moe}.experts.${expert}.${short}.weight`;
        tensors.push({ name: target, shape: inner, from: { kind: "expert", source, expert } });
      }
    }
  }
  return tensors;
}

/** Tensors of old checkpoints that hold nothing but what the configuration says. */
export const isDerivedTensor = (name: string): boolean => name.endsWith("rotary_emb.inv_freq");
