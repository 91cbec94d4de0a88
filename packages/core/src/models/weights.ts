import { InvalidUseError } from "../tensor/errors.js";
import type { Parameter } from "../tensor/tensor.js";
import type { CausalLM } from "./causal-lm.js";

/** One tensor on disk, a run of rows of a parameter in memory. */
export interface DiskTensor {
  name: string;
  shape: readonly number[];
  /** First element inside the parameter. */
  offset: number;
}

/**
 * Names of a mixture's tensors: `legacy` has one tensor per expert and projection, which transformers and vLLM both read;
 * `fused` stacks them, as transformers 5 holds them in memory.
 */
export type MixtralLayout = "legacy" | "fused";

/** Parameters that have the same name and shape on disk. */
const sameOnDisk =
  /^(model\.embed_tokens|model\.norm|lm_head|model\.layers\.\d+\.(self_attn\.[qkvo]_proj|(input|post_attention)_layernorm))\.weight$/;

/**
 * How each parameter is stored: Hugging Face's Llama names, and Mixtral's. A parameter is its parts one after the other
 * (gate then up; expert after expert), so parts are plain ranges.
 * @throws InvalidUseError for a parameter that these architectures do not have, such as an adapter's
 */
export function diskLayout(model: CausalLM, mixtral: MixtralLayout = "legacy"): Map<Parameter, DiskTensor[]> {
  const layout = new Map<Parameter, DiskTensor[]>();
  for (const [name, parameter] of model.namedParameters())
    layout.set(parameter, partsOf(name, parameter.shape, mixtral));
  return layout;
}

function partsOf(name: string, shape: readonly number[], mixtral: MixtralLayout): DiskTensor[] {
  const cut = name.lastIndexOf(".");
  const [owner, leaf] = [name.slice(0, cut), name.slice(cut + 1)];
  if (owner.endsWith(".block_sparse_moe")) {
    if (mixtral === "legacy") return moeParts(owner, leaf, shape);
    const stem = `${owner.slice(0, -".block_sparse_moe".length)}.mlp`;
    return [{ name: leaf === "gate" ? `${stem}.gate.weight` : `${stem}.experts.${leaf}`, shape, offset: 0 }];
  }
  if (owner.endsWith(".mlp")) {
    if (leaf === "down_proj") return [{ name: `${name}.weight`, shape, offset: 0 }];
    if (leaf === "gate_up_proj") return halves(`${owner}.gate_proj.weight`, `${owner}.up_proj.weight`, shape, 0);
  }
  if (sameOnDisk.test(name)) return [{ name, shape, offset: 0 }];
  throw new InvalidUseError(
    `"${name}" is no tensor of a Llama or Mixtral: merge adapters into the weights and put plain layers back first`,
  );
}

function moeParts(owner: string, leaf: string, shape: readonly number[]): DiskTensor[] {
  if (leaf === "gate") return [{ name: `${owner}.gate.weight`, shape, offset: 0 }];
  const [experts, ...inner] = shape as [number, number, number];
  const size = inner[0] * inner[1];
  return Array.from({ length: experts }, (_, e) => {
    const expert = `${owner}.experts.${e}`;
    if (leaf === "down_proj") return [{ name: `${expert}.w2.weight`, shape: inner, offset: e * size }];
    return halves(`${expert}.w1.weight`, `${expert}.w3.weight`, inner, e * size);
  }).flat();
}

function halves(gate: string, up: string, [rows, width]: readonly number[], offset: number): DiskTensor[] {
  const shape = [rows! / 2, width!];
  return [
    { name: gate, shape, offset },
    { name: up, shape, offset: offset + (rows! / 2) * width! },
  ];
}
