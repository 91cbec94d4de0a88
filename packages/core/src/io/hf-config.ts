import { z } from "zod";
import { type RouterConfig, routerKinds } from "../nn/routing.js";
import { ModelFolderError } from "./errors.js";
import { readJsonFile } from "./model-folder.js";
import { reasonOf } from "./reason.js";

export type ModelFamily = "llama" | "mistral" | "mixtral";

/** Scaling of rotary positions. */
export type RopeScaling =
  /** Positions divided by `factor`. */
  | { type: "linear"; factor: number }
  /** Llama 3.1: low frequencies divided by `factor`, high ones kept, a ramp between. */
  | {
      type: "llama3";
      factor: number;
      lowFrequencyFactor: number;
      highFrequencyFactor: number;
      originalMaxPositions: number;
    }
  /** Known but not computed here (`dynamic`, `yarn`, `longrope`, …): carried as it was, so that it is never dropped. */
  | { type: "other"; raw: Readonly<Record<string, unknown>> };

/** What a `config.json` of the Llama family says, with the defaults of `transformers` filled in. */
export interface TransformerConfig {
  family: ModelFamily;
  vocabSize: number;
  hiddenSize: number;
  /** Width of the feed-forward layer, of one expert in a mixture. */
  intermediateSize: number;
  layers: number;
  heads: number;
  keyValueHeads: number;
  headDim: number;
  rmsNormEps: number;
  ropeTheta: number;
  ropeScaling?: RopeScaling;
  tieWordEmbeddings: boolean;
  maxPositions: number;
  /** Tokens that a query may look back, itself included. */
  slidingWindow?: number;
  experts?: number;
  expertsPerToken?: number;
  routerAuxLossCoef?: number;
  /** How the routers choose; absent: the softmax over the `expertsPerToken` largest logits. */
  router?: RouterConfig;
  /** Layers that are mixtures; absent: all. */
  moeLayers?: readonly number[];
  /** What the experts are called, such as the domains they were trained on. */
  expertNames?: readonly string[];
  bosTokenId?: number;
  /** Ids that end a text: several in Llama 3. */
  eosTokenIds: readonly number[];
  padTokenId?: number;
  /** Standard deviation of initial weights. */
  initializerRange: number;
  /** Dtype of the stored weights, as the source names it. */
  dtype?: string;
  /** The file as it was. */
  raw: Readonly<Record<string, unknown>>;
}

/** `model_type` of a mixture that transformers' Mixtral does not compute: it is refused there, not silently misread. */
export const ownModelType = "trefoil_mixtral";

/** Defaults of `transformers` 5.18 where the families differ. */
const familyDefaults = {
  llama: {
    intermediateSize: 11008,
    keyValueHeads: undefined,
    maxPositions: 2048,
    rmsNormEps: 1e-6,
    ropeTheta: 1e4,
    slidingWindow: null,
  },
  mistral: {
    intermediateSize: 14336,
    keyValueHeads: 8,
    maxPositions: 131072,
    rmsNormEps: 1e-6,
    ropeTheta: 1e4,
    slidingWindow: 4096,
  },
  mixtral: {
    intermediateSize: 14336,
    keyValueHeads: 8,
    maxPositions: 131072,
    rmsNormEps: 1e-5,
    ropeTheta: 1e6,
    slidingWindow: null,
  },
} as const;

const count = z.number().int().positive();
const positive = z.number().positive();
const tokenId = z.number().int();
const rope = z.record(z.string(), z.unknown());

const commonFields = {
  vocab_size: count.default(32000),
  hidden_size: count.default(4096),
  intermediate_size: count.optional(),
  num_hidden_layers: count.default(32),
  num_attention_heads: count.default(32),
  num_key_value_heads: count.nullish(),
  head_dim: count.nullish(),
  hidden_act: z.string().default("silu"),
  max_position_embeddings: count.optional(),
  initializer_range: z.number().nonnegative().default(0.02),
  rms_norm_eps: positive.optional(),
  rope_theta: positive.nullish(),
  rope_scaling: rope.nullish(),
  rope_parameters: rope.nullish(),
  tie_word_embeddings: z.boolean().default(false),
  sliding_window: count.nullish(),
  attention_bias: z.boolean().nullish(),
  mlp_bias: z.boolean().nullish(),
  bos_token_id: tokenId.nullish(),
  eos_token_id: z.union([tokenId, z.array(tokenId)]).nullish(),
  pad_token_id: tokenId.nullish(),
  torch_dtype: z.string().nullish(),
  dtype: z.string().nullish(),
};

const configSchema = z.discriminatedUnion("model_type", [
  z.looseObject({ model_type: z.literal("llama"), ...commonFields }),
  z.looseObject({ model_type: z.literal("mistral"), ...commonFields }),
  z.looseObject({
    model_type: z.literal(["mixtral", ownModelType]),
    ...commonFields,
    num_local_experts: count.default(8),
    num_experts_per_tok: count.default(2),
    router_aux_loss_coef: z.number().nonnegative().default(0.001),
    trefoil: z
      .looseObject({
        router: z
          .strictObject({
            kind: z.enum(routerKinds),
            capacity_factor: positive.optional(),
            soft_first_layer: z.boolean().optional(),
          })
          .optional(),
        moe_layers: z.array(z.number().int().nonnegative()).min(1).optional(),
        expert_names: z.array(z.string()).optional(),
      })
      .optional(),
  }),
]);

type ParsedConfig = z.infer<typeof configSchema>;

/** Reads `config.json` of a model folder. @throws ModelFolderError */
export async function readTransformerConfig(folder: string): Promise<TransformerConfig> {
  return parseTransformerConfig(await readJsonFile(folder, "config.json"), folder);
}

/**
 * Reads a Llama, Mistral or Mixtral configuration as transformers 4 (`rope_theta`, `rope_scaling`, `torch_dtype`) or 5
 * (`rope_parameters`, `dtype`) writes it.
 * @param source for messages: the folder or file the JSON came from
 * @throws ModelFolderError `MODEL_FOLDER_INVALID_CONFIG` for a malformed file, `MODEL_FOLDER_UNSUPPORTED_CONFIG` for a model
 *   that cannot be computed here
 */
export function parseTransformerConfig(json: unknown, source = "config.json"): TransformerConfig {
  const unsupported = (message: string) => new ModelFolderError("MODEL_FOLDER_UNSUPPORTED_CONFIG", source, message);
  const invalid = (message: string) => new ModelFolderError("MODEL_FOLDER_INVALID_CONFIG", source, message);
  const modelType = (json as { model_type?: unknown } | null)?.model_type;
  if (typeof modelType === "string" && modelType !== ownModelType && !Object.hasOwn(familyDefaults, modelType)) {
    throw unsupported(`model_type "${modelType}" is not supported: use llama, mistral or mixtral`);
  }
  const result = configSchema.safeParse(json);
  if (!result.success) throw invalid(`config.json: ${reasonOf(result.error)}`);
  const parsed = result.data;
  if (parsed.attention_bias) throw unsupported("attention_bias is true: biases in attention are not supported");
  if (parsed.mlp_bias) throw unsupported("mlp_bias is true: biases in the feed-forward layer are not supported");
  if (parsed.hidden_act !== "silu") throw unsupported(`hidden_act is "${parsed.hidden_act}": only "silu" is supported`);

  const family = parsed.model_type === ownModelType ? "mixtral" : parsed.model_type;
  const defaults = familyDefaults[family];
  const heads = parsed.num_attention_heads;
  const keyValueHeads =
    parsed.num_key_value_heads === undefined
      ? (defaults.keyValueHeads ?? heads)
      : (parsed.num_key_value_heads ?? heads);
  const headDim = parsed.head_dim ?? parsed.hidden_size / heads;
  if (heads % keyValueHeads !== 0)
    throw invalid(`num_attention_heads ${heads} is not a multiple of num_key_value_heads ${keyValueHeads}`);
  if (!Number.isInteger(headDim))
    throw invalid(
      `hidden_size ${parsed.hidden_size} is not a multiple of num_attention_heads ${heads}, and head_dim is absent`,
    );
  if (headDim % 2 !== 0) throw invalid(`head_dim ${headDim} is odd: rotary positions need an even one`);
  const { ropeTheta, ropeScaling } = parseRope(parsed, defaults.ropeTheta, unsupported, invalid);
  const slidingWindow = parsed.sliding_window === undefined ? defaults.slidingWindow : parsed.sliding_window;
  const bosTokenId = parsed.bos_token_id === undefined ? 1 : parsed.bos_token_id;
  const eosTokenId = parsed.eos_token_id === undefined ? 2 : parsed.eos_token_id;
  const dtype = parsed.dtype ?? parsed.torch_dtype;

  const config: TransformerConfig = {
    family,
    vocabSize: parsed.vocab_size,
    hiddenSize: parsed.hidden_size,
    intermediateSize: parsed.intermediate_size ?? defaults.intermediateSize,
    layers: parsed.num_hidden_layers,
    heads,
    keyValueHeads,
    headDim,
    rmsNormEps: parsed.rms_norm_eps ?? defaults.rmsNormEps,
    ropeTheta,
    tieWordEmbeddings: parsed.tie_word_embeddings,
    maxPositions: parsed.max_position_embeddings ?? defaults.maxPositions,
    eosTokenIds: eosTokenId === null ? [] : [eosTokenId].flat(),
    initializerRange: parsed.initializer_range,
    raw: json as Record<string, unknown>,
    ...(ropeScaling && { ropeScaling }),
    ...(slidingWindow && { slidingWindow }),
    ...(bosTokenId !== null && { bosTokenId }),
    ...(typeof parsed.pad_token_id === "number" && { padTokenId: parsed.pad_token_id }),
    ...(dtype && { dtype }),
  };
  if (parsed.model_type !== "mixtral" && parsed.model_type !== ownModelType) return config;
  const {
    num_local_experts: experts,
    num_experts_per_tok: expertsPerToken,
    router_aux_loss_coef: routerAuxLossCoef,
  } = parsed;
  if (expertsPerToken > experts)
    throw invalid(`num_experts_per_tok ${expertsPerToken} exceeds num_local_experts ${experts}`);
  const { router, moe_layers: moeLayers, expert_names: expertNames } = parsed.trefoil ?? {};
  const beyond = moeLayers?.find((layer) => layer >= config.layers);
  if (beyond !== undefined) throw invalid(`moe_layers names layer ${beyond}, but there are ${config.layers} layers`);
  return {
    ...config,
    experts,
    expertsPerToken,
    routerAuxLossCoef,
    ...(router && { router: routerConfig(router) }),
    ...(moeLayers && { moeLayers }),
    ...(expertNames && { expertNames }),
  };
}

const routerConfig = (json: {
  kind: RouterConfig["kind"];
  capacity_factor?: number | undefined;
  soft_first_layer?: boolean | undefined;
}): RouterConfig => ({
  kind: json.kind,
  ...(json.capacity_factor !== undefined && { capacityFactor: json.capacity_factor }),
  ...(json.soft_first_layer !== undefined && { softFirstLayer: json.soft_first_layer }),
});

/** `rope_parameters` wins over `rope_theta` and `rope_scaling` where a file has both, as in transformers 5. */
function parseRope(
  parsed: ParsedConfig,
  defaultTheta: number,
  unsupported: (message: string) => Error,
  invalid: (message: string) => Error,
): { ropeTheta: number; ropeScaling?: RopeScaling } {
  const {
    rope_theta: ownTheta,
    rope_type: v5Type,
    type: v4Type,
    ...rest
  } = parsed.rope_parameters ?? parsed.rope_scaling ?? {};
  const type = v5Type ?? v4Type ?? "default";
  const number = (key: string, value: unknown): number => {
    if (typeof value !== "number" || !(value > 0))
      throw invalid(`config.json: rope scaling: ${key} is ${JSON.stringify(value) ?? "absent"}, not a positive number`);
    return value;
  };
  if (typeof type !== "string")
    throw invalid(`config.json: rope scaling: rope_type is ${JSON.stringify(type)}, not a string`);
  if (type === "default" && Object.values(rest).some((value) => typeof value === "object" && value !== null)) {
    throw unsupported("rope_parameters differ by layer, which is not supported");
  }
  const partial = rest.partial_rotary_factor;
  if (partial !== undefined && partial !== null && partial !== 1)
    throw unsupported(`partial_rotary_factor is ${JSON.stringify(partial)}: only 1 is supported`);
  const ropeTheta =
    ownTheta === undefined || ownTheta === null ? (parsed.rope_theta ?? defaultTheta) : number("rope_theta", ownTheta);
  switch (type) {
    case "default":
      return { ropeTheta };
    case "linear":
      return { ropeTheta, ropeScaling: { type, factor: number("factor", rest.factor) } };
    case "llama3":
      return {
        ropeTheta,
        ropeScaling: {
          type,
          factor: number("factor", rest.factor),
          lowFrequencyFactor: number("low_freq_factor", rest.low_freq_factor),
          highFrequencyFactor: number("high_freq_factor", rest.high_freq_factor),
          originalMaxPositions: number("original_max_position_embeddings", rest.original_max_position_embeddings),
        },
      };
    default:
      return { ropeTheta, ropeScaling: { type: "other", raw: { ...rest, rope_type: type } } };
  }
}
