import { choicesOf } from "../nn/routing.js";
import { ownModelType, type RopeScaling, type TransformerConfig } from "./hf-config.js";

/** Everything of a configuration but the file it came from. */
export type TransformerConfigFields = Omit<TransformerConfig, "raw" | "dtype">;

/** Stored dtype, in the words of `config.json`. */
export type ConfigDtype = "float32" | "bfloat16" | "float16";

/** The transformers version whose format is written. */
const formatVersion = "5.18.0";

/**
 * `config.json` of a `LlamaForCausalLM`, or `MistralForCausalLM` when the family is `mistral`. Both spellings of the fields
 * that transformers 5 renamed are written, so that 4 and 5, vLLM and llama.cpp read the same model. Turn it into text with
 * `hubJson`, as `ModelFolderWriter.writeFile` does.
 */
export function llamaConfigJson(config: TransformerConfigFields, dtype: ConfigDtype): Record<string, unknown> {
  const mistral = config.family === "mistral";
  return {
    architectures: [mistral ? "MistralForCausalLM" : "LlamaForCausalLM"],
    model_type: mistral ? "mistral" : "llama",
    ...sharedFields(config, dtype),
    ...(mistral ? { sliding_window: config.slidingWindow ?? null } : { attention_bias: false, mlp_bias: false }),
  };
}

/**
 * Why transformers' Mixtral would compute something else than this mixture, or undefined when it computes the same: soft
 * routing is top-k with all experts, and Sample Top-1 chooses as top-1 once it is trained.
 */
export function beyondTransformers(config: TransformerConfigFields): string | undefined {
  const { router, moeLayers, experts, layers } = config;
  if (moeLayers && moeLayers.length < layers) return "only some layers are mixtures";
  if (router?.kind === "switch" || router?.kind === "raw-top-k") return `${router.kind} gates do not sum to 1`;
  if (router?.softFirstLayer && choicesOf(router, experts!, config.expertsPerToken!) < experts!)
    return "its first layer is routed softly, the others are not";
  return undefined;
}

/**
 * `config.json` of a `MixtralForCausalLM`, or of a `trefoil_mixtral` where transformers' Mixtral would compute something
 * else; see `llamaConfigJson` and `beyondTransformers`.
 * @param config with `experts` and `expertsPerToken`
 * @throws RangeError when one of them is absent
 */
export function mixtralConfigJson(config: TransformerConfigFields, dtype: ConfigDtype): Record<string, unknown> {
  if (config.experts === undefined || config.expertsPerToken === undefined) {
    throw new RangeError("a Mixtral configuration needs experts and expertsPerToken");
  }
  const { router, experts, expertsPerToken } = config;
  const own = beyondTransformers(config) !== undefined;
  return {
    architectures: [own ? "TrefoilMixtralForCausalLM" : "MixtralForCausalLM"],
    model_type: own ? ownModelType : "mixtral",
    ...sharedFields(config, dtype),
    sliding_window: config.slidingWindow ?? null,
    num_local_experts: experts,
    num_experts_per_tok: router ? choicesOf(router, experts, expertsPerToken) : expertsPerToken,
    output_router_logits: false,
    router_aux_loss_coef: config.routerAuxLossCoef ?? 0.001,
    router_jitter_noise: 0,
    ...ownFields(config),
  };
}

/** What transformers has no field for; absent for a plain Mixtral whose experts have no names. */
function ownFields({ router, moeLayers, expertNames }: TransformerConfigFields): Record<string, unknown> {
  const fields = {
    ...(router && {
      router: {
        kind: router.kind,
        ...(router.capacityFactor !== undefined && { capacity_factor: router.capacityFactor }),
        ...(router.softFirstLayer !== undefined && { soft_first_layer: router.softFirstLayer }),
      },
    }),
    ...(moeLayers && { moe_layers: moeLayers }),
    ...(expertNames && { expert_names: expertNames }),
  };
  return Object.keys(fields).length > 0 ? { trefoil: fields } : {};
}

/** `generation_config.json`: the ids that begin, end and pad a text. */
export function generationConfigJson(config: TransformerConfigFields): Record<string, unknown> {
  return { ...tokenIds(config), transformers_version: formatVersion };
}

function sharedFields(config: TransformerConfigFields, dtype: ConfigDtype): Record<string, unknown> {
  const scaling = config.ropeScaling && ropeScalingJson(config.ropeScaling);
  return {
    vocab_size: config.vocabSize,
    hidden_size: config.hiddenSize,
    intermediate_size: config.intermediateSize,
    num_hidden_layers: config.layers,
    num_attention_heads: config.heads,
    num_key_value_heads: config.keyValueHeads,
    head_dim: config.headDim,
    hidden_act: "silu",
    max_position_embeddings: config.maxPositions,
    initializer_range: config.initializerRange,
    rms_norm_eps: config.rmsNormEps,
    use_cache: true,
    ...tokenIds(config),
    tie_word_embeddings: config.tieWordEmbeddings,
    attention_dropout: 0,
    rope_theta: config.ropeTheta,
    ...(scaling && { rope_scaling: scaling }),
    rope_parameters: { rope_type: "default", ...scaling, rope_theta: config.ropeTheta },
    torch_dtype: dtype,
    dtype,
    transformers_version: formatVersion,
  };
}

function tokenIds(config: TransformerConfigFields): Record<string, unknown> {
  const eos = config.eosTokenIds;
  return {
    bos_token_id: config.bosTokenId ?? null,
    eos_token_id: eos.length === 0 ? null : eos.length === 1 ? eos[0] : eos,
    pad_token_id: config.padTokenId ?? null,
  };
}

function ropeScalingJson(scaling: RopeScaling): Record<string, unknown> {
  switch (scaling.type) {
    case "linear":
      return { rope_type: "linear", factor: scaling.factor };
    case "llama3":
      return {
        rope_type: "llama3",
        factor: scaling.factor,
        low_freq_factor: scaling.lowFrequencyFactor,
        high_freq_factor: scaling.highFrequencyFactor,
        original_max_position_embeddings: scaling.originalMaxPositions,
      };
    case "other":
      return { ...scaling.raw };
  }
}
