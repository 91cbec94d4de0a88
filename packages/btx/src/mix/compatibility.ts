import { access, readFile } from "node:fs/promises";
import { join } from "node:path";
import {
  compareTokenizers,
  loadTokenizer,
  type ModelFolder,
  type Tokenizer,
  type TransformerConfig,
} from "@trefoil/core";
import { MixError } from "./errors.js";
import { denseTensors, isDerivedTensor } from "./tensors.js";

/** One checkpoint to mix, opened. */
export interface Source {
  readonly path: string;
  readonly config: TransformerConfig;
  readonly folder: ModelFolder;
}

/** What must be equal for weights to be averaged and experts to share one residual stream. Names as in config.json. */
const sharedFields: Readonly<Record<string, (config: TransformerConfig) => unknown>> = {
  hidden_size: ({ hiddenSize }) => hiddenSize,
  intermediate_size: ({ intermediateSize }) => intermediateSize,
  num_hidden_layers: ({ layers }) => layers,
  num_attention_heads: ({ heads }) => heads,
  num_key_value_heads: ({ keyValueHeads }) => keyValueHeads,
  head_dim: ({ headDim }) => headDim,
  vocab_size: ({ vocabSize }) => vocabSize,
  rms_norm_eps: ({ rmsNormEps }) => rmsNormEps,
  rope_theta: ({ ropeTheta }) => ropeTheta,
  rope_scaling: ({ ropeScaling }) => ropeScaling ?? null,
  tie_word_embeddings: ({ tieWordEmbeddings }) => tieWordEmbeddings,
  sliding_window: ({ slidingWindow }) => slidingWindow ?? null,
};

const floatingPoint: ReadonlySet<string> = new Set(["F32", "F16", "BF16"]);

/** Fields that may differ, and are decided for all. */
const freeFields: typeof sharedFields = {
  max_position_embeddings: ({ maxPositions }) => maxPositions,
  bos_token_id: ({ bosTokenId }) => bosTokenId ?? null,
  eos_token_id: ({ eosTokenIds }) => eosTokenIds,
  initializer_range: ({ initializerRange }) => initializerRange,
  torch_dtype: ({ dtype }) => dtype ?? null,
};

/** One field of the checkpoints' configurations. */
export interface ComparedField {
  readonly field: string;
  /** Of each checkpoint. */
  readonly values: readonly unknown[];
  readonly equal: boolean;
}

/**
 * Checks that checkpoints can be mixed: equal architecture, complete weights, one tokenizer.
 * @returns every field of the configurations side by side, and notes on differences that do no harm
 * @throws MixError naming the field, both values and both folders
 */
export async function checkCompatible(
  sources: readonly Source[],
): Promise<{ notes: string[]; compared: ComparedField[] }> {
  const [first, ...others] = sources as [Source, ...Source[]];
  const notes: string[] = [];
  for (const source of sources) {
    if (source.config.family === "mixtral") {
      throw new MixError(
        "MIX_NOT_DENSE",
        `${source.path} is a mixture of experts already (model_type mixtral): mix dense checkpoints`,
        {
          folder: source.path,
        },
      );
    }
  }
  for (const other of others) {
    for (const [field, value] of Object.entries(sharedFields)) {
      refuseDifference(field, first, value(first.config), other, value(other.config));
    }
    // Positions decide nothing but under scalings that are computed from them.
    if (first.config.ropeScaling?.type === "other") {
      refuseDifference("max_position_embeddings", first, first.config.maxPositions, other, other.config.maxPositions);
    }
  }
  const positions = new Set(sources.map(({ config }) => config.maxPositions));
  if (positions.size > 1) {
    notes.push(
      `max_position_embeddings differs (${[...positions].join(", ")}): the mixture has the smallest, which every expert knows`,
    );
  }
  const endings = new Set(sources.map(({ config }) => JSON.stringify([config.bosTokenId ?? null, config.eosTokenIds])));
  if (endings.size > 1) notes.push(`begin and end tokens differ: those of ${first.path} are written`);
  for (const source of sources) notes.push(...checkTensors(source));
  notes.push(...(await checkTokenizers(sources)));
  return { notes, compared: compareFields(sources) };
}

function compareFields(sources: readonly Source[]): ComparedField[] {
  return Object.entries({ ...sharedFields, ...freeFields }).map(([field, read]) => {
    const values = sources.map(({ config }) => read(config));
    return { field, values, equal: new Set(values.map((value) => JSON.stringify(value))).size === 1 };
  });
}

function refuseDifference(field: string, first: Source, one: unknown, other: Source, two: unknown): void {
  const [left, right] = [JSON.stringify(one), JSON.stringify(two)];
  if (left === right) return;
  throw new MixError(
    "MIX_INCOMPATIBLE",
    `${field} is ${left} in ${first.path} and ${right} in ${other.path}: only branches of one seed can be mixed`,
    { field, folders: [first.path, other.path], values: [one, two] },
  );
}

function checkTensors({ path, config, folder }: Source): string[] {
  const expected = denseTensors(config);
  const quantised = (config.raw.quantization_config as { quant_method?: unknown } | undefined)?.quant_method;
  const notes: string[] = [];
  for (const [name, shape] of expected) {
    const info = folder.tensors.get(name);
    if (!info) {
      const why = quantised
        ? `its weights are quantised (${quantised}): save them as BF16 first`
        : "its weights are incomplete";
      throw new MixError("MIX_MISSING_TENSOR", `${path} lacks the tensor ${name}: ${why}`, {
        folder: path,
        tensor: name,
      });
    }
    if (JSON.stringify(info.shape) !== JSON.stringify(shape)) {
      throw new MixError(
        "MIX_WRONG_SHAPE",
        `${name} of ${path} is [${info.shape.join(", ")}], but config.json asks for [${shape.join(", ")}]`,
        { folder: path, tensor: name, values: [info.shape, shape] },
      );
    }
    if (!floatingPoint.has(info.dtype)) {
      throw new MixError(
        "MIX_WRONG_DTYPE",
        `${name} of ${path} is ${info.dtype}: convert it to F32, BF16 or F16 first`,
        {
          folder: path,
          tensor: name,
          dtype: info.dtype,
        },
      );
    }
  }
  for (const name of folder.tensors.keys()) {
    if (expected.has(name) || isDerivedTensor(name)) continue;
    if (name === "lm_head.weight") {
      notes.push(`${path} ties its embeddings, so its lm_head.weight is left out`);
      continue;
    }
    throw new MixError(
      "MIX_UNEXPECTED_TENSOR",
      `${path} has ${name}, for which a Mixtral checkpoint has no place: biases, adapters and other additions cannot be mixed (merge adapters first)`,
      { folder: path, tensor: name },
    );
  }
  return notes;
}

async function checkTokenizers(sources: readonly Source[]): Promise<string[]> {
  const loaded: { path: string; tokenizer: Tokenizer }[] = [];
  const without: Source[] = [];
  for (const { path } of sources) {
    const present = await access(join(path, "tokenizer.json")).then(
      () => true,
      () => false,
    );
    if (present) loaded.push({ path, tokenizer: await loadTokenizer(path) });
  }
  for (const source of sources) if (!loaded.some(({ path }) => path === source.path)) without.push(source);
  const first = loaded[0];
  for (const other of loaded.slice(1)) {
    const difference = compareTokenizers(first!.tokenizer, other.tokenizer);
    if (!difference) continue;
    throw new MixError(
      "MIX_INCOMPATIBLE",
      `the tokenizers of ${first!.path} and ${other.path} differ: ${difference.message}. Only checkpoints with one tokenizer can be mixed`,
      { field: difference.kind, folders: [first!.path, other.path] },
    );
  }
  return [
    ...(await checkSentencePieceModels(sources)),
    ...without.map(({ path }) => `${path} has no tokenizer.json, so its tokenizer was not compared`),
  ];
}

/** `tokenizer.model` of older checkpoints is compared as bytes. */
async function checkSentencePieceModels(sources: readonly Source[]): Promise<string[]> {
  let first: { path: string; bytes: Buffer } | undefined;
  for (const { path } of sources) {
    const bytes = await readFile(join(path, "tokenizer.model")).catch(() => undefined);
    if (!bytes) continue;
    if (first && !first.bytes.equals(bytes)) {
      throw new MixError(
        "MIX_INCOMPATIBLE",
        `tokenizer.model of ${first.path} (${first.bytes.length} bytes) and of ${path} (${bytes.length} bytes) differ`,
        { field: "tokenizer.model", folders: [first.path, path] },
      );
    }
    first ??= { path, bytes };
  }
  return [];
}
