import type { DecoderSizes, MixtralLayout } from "@trefoil/core";

/** The feed-forward matrices of an expert, as Llama names them. */
export const projections = ["gate_proj", "up_proj", "down_proj"] as const;
export type Projection = (typeof projections)[number];

/** A tensor of the mixture and what fills it. */
export interface MixtureTensor {
  readonly name: string;
  readonly shape: readonly number[];
  readonly from: /** The average of the tensors of this name. */
    | { readonly kind: "average"; readonly source: string }
    /** Matrices of one layer's experts; `source` is the checkpoints' tensor (the first of two where they are fused). */
    | { readonly kind: "experts"; readonly source: string }
    | { readonly kind: "router"; readonly layer: number };
}

/** Where one expert's matrix begins. */
export interface ExpertTarget {
  readonly name: string;
  /** Elements of the tensor before it. */
  readonly first: number;
}

/** The shape of every tensor of a dense Llama checkpoint, by name. */
export function denseTensors(sizes: DecoderSizes): Map<string, readonly number[]> {
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
    shapes.set(sourceName(layer, "gate_proj"), [f, d]);
    shapes.set(sourceName(layer, "up_proj"), [f, d]);
    shapes.set(sourceName(layer, "down_proj"), [d, f]);
  }
  shapes.set("model.norm.weight", [d]);
  if (!sizes.tieWordEmbeddings) shapes.set("lm_head.weight", [sizes.vocabSize, d]);
  return shapes;
}

/** The checkpoints' tensor of a feed-forward matrix. */
export const sourceName = (layer: number, projection: Projection): string =>
  `model.layers.${layer}.mlp.${projection}.weight`;

/**
 * Every tensor of a mixture, layer by layer.
 * @param sizes of the mixture: `intermediateSize` is that of one expert
 * @param moeLayers layers that are mixtures; the others keep their feed-forward layer
 */
export function mixtureTensors(
  sizes: DecoderSizes & { experts: number },
  moeLayers: readonly number[],
  layout: MixtralLayout,
): MixtureTensor[] {
  const isMixture = new Set(moeLayers);
  const tensors: MixtureTensor[] = [];
  for (const [name, shape] of denseTensors(sizes)) {
    const match = /^model\.layers\.(\d+)\.mlp\.(gate|up|down)_proj\.weight$/.exec(name);
    const layer = Number(match?.[1]);
    if (!match || !isMixture.has(layer)) tensors.push({ name, shape, from: { kind: "average", source: name } });
    else if (match[2] === "gate") tensors.push(...mixtureLayer(sizes, layer, layout));
  }
  return tensors;
}

function mixtureLayer(
  { hiddenSize: d, intermediateSize: f, experts }: DecoderSizes & { experts: number },
  layer: number,
  layout: MixtralLayout,
): MixtureTensor[] {
  const router: MixtureTensor["from"] = { kind: "router", layer };
  const experts_ = (projection: Projection): MixtureTensor["from"] => ({
    kind: "experts",
    source: sourceName(layer, projection),
  });
  if (layout === "fused") {
    const stem = `model.layers.${layer}.mlp`;
    return [
      { name: `${stem}.gate.weight`, shape: [experts, d], from: router },
      { name: `${stem}.experts.gate_up_proj`, shape: [experts, 2 * f, d], from: experts_("gate_proj") },
      { name: `${stem}.experts.down_proj`, shape: [experts, d, f], from: experts_("down_proj") },
    ];
  }
  const matrices = projections.flatMap((projection) =>
    Array.from({ length: experts }, (_, expert) => ({
      name: legacyName(layer, expert, projection),
      shape: projection === "down_proj" ? [d, f] : [f, d],
      from: experts_(projection),
    })),
  );
  return [
    { name: `model.layers.${layer}.block_sparse_moe.gate.weight`, shape: [experts, d], from: router },
    ...matrices,
  ];
}

const legacyNames = { gate_proj: "w1", down_proj: "w2", up_proj: "w3" } as const satisfies Record<Projection, string>;

const legacyName = (layer: number, expert: number, projection: Projection): string =>
  `model.layers.${layer}.block_sparse_moe.experts.${expert}.${legacyNames[projection]}.weight`;

/** Where the experts' matrices of one projection go. */
export function expertTargets(
  {
    hiddenSize: d,
    intermediateSize: f,
    experts,
  }: Pick<DecoderSizes, "hiddenSize" | "intermediateSize"> & { experts: number },
  layer: number,
  projection: Projection,
  layout: MixtralLayout,
): ExpertTarget[] {
  return Array.from({ length: experts }, (_, expert) => {
    if (layout === "legacy") return { name: legacyName(layer, expert, projection), first: 0 };
    const stem = `model.layers.${layer}.mlp.experts`;
    if (projection === "down_proj") return { name: `${stem}.down_proj`, first: expert * d * f };
    return { name: `${stem}.gate_up_proj`, first: (2 * expert + (projection === "up_proj" ? 1 : 0)) * d * f };
  });
}

/** Tensors of old checkpoints that hold nothing but what the configuration says. */
export const isDerivedTensor = (name: string): boolean => name.endsWith("rotary_emb.inv_freq");
