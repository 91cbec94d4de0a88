import {
  bf16ToF32,
  type ConfigDtype,
  encodeFloats,
  generationConfigJson,
  llamaConfigJson,
  ModelFolder,
  ModelFolderError,
  ModelFolderWriter,
  mixtralConfigJson,
  parseTransformerConfig,
  type TransformerConfig,
} from "../io/index.js";
import { elementCount, sameShape } from "../tensor/shape.js";
import type { Parameter } from "../tensor/tensor.js";
import type { CausalLM, DecoderConfig } from "./causal-lm.js";
import { Llama } from "./llama.js";
import { Mixtral, type MixtralConfig } from "./mixtral.js";
import { type DiskTensor, diskLayout } from "./weights.js";

/** The model that a configuration describes, with initial weights. */
export function createModel(
  config: DecoderConfig & Partial<Pick<MixtralConfig, "experts" | "expertsPerToken" | "router" | "moeLayers">>,
  seed = 0,
): CausalLM {
  const { experts, expertsPerToken } = config;
  return experts
    ? new Mixtral({ ...config, experts, expertsPerToken: expertsPerToken ?? 2 }, seed)
    : new Llama(config, seed);
}

/** What a folder's configuration leaves open to change without changing its weights. */
export type LoadOptions = Partial<Pick<TransformerConfig, "router" | "expertsPerToken">>;

/**
 * Reads a Hugging Face folder of the Llama, Mistral or Mixtral family; weights of any float dtype become f32. Mixtral's
 * weights may be in the legacy or the fused layout.
 * @param options routing to use in place of the folder's own; the returned configuration has it
 * @throws ModelFolderError where files, names or shapes do not fit, or the folder holds another kind of model, such as a classifier
 */
export async function loadModel(
  path: string,
  options: LoadOptions = {},
): Promise<{ model: CausalLM; config: TransformerConfig }> {
  await using folder = await ModelFolder.open(path);
  const config = { ...parseTransformerConfig(await folder.readJson("config.json"), path), ...options };
  requireLanguageModel(config.raw, path);
  requireSizesOf(folder, config, path);
  const model = createModel(config);
  await loadWeights(model, folder, path);
  return { model, config };
}

/** With tied embeddings a classifier's folder has every tensor of a language model, and would speak at random. */
function requireLanguageModel({ architectures }: TransformerConfig["raw"], path: string): void {
  if (!Array.isArray(architectures) || architectures.length === 0) return;
  if (architectures.some((name) => String(name).endsWith("ForCausalLM"))) return;
  const message = `config.json says ${architectures.join(", ")}, and a language model (…ForCausalLM) is asked for`;
  throw new ModelFolderError("MODEL_FOLDER_UNSUPPORTED_CONFIG", path, message);
}

/**
 * Before a model is made: a configuration of another one may ask for more memory than there is. What is missing a little of is found, and
 * named, when weights are read.
 */
function requireSizesOf(folder: ModelFolder, config: TransformerConfig, path: string): void {
  const { vocabSize, hiddenSize, intermediateSize, layers, heads, keyValueHeads, headDim, maxPositions } = config;
  const { experts = 1, moeLayers } = config;
  const attention = 2 * hiddenSize * headDim * (heads + keyValueHeads);
  const feedForwards = (moeLayers?.length ?? layers) * experts + (moeLayers ? layers - moeLayers.length : 0);
  const wanted = vocabSize * hiddenSize + layers * attention + feedForwards * 3 * hiddenSize * intermediateSize;
  const held = [...folder.tensors.values()].reduce((total, { shape }) => total + elementCount(shape), 0);
  if (wanted <= 2 * held && maxPositions * headDim < 2 ** 32) return;
  const message = `config.json asks for ${wanted} weights and ${maxPositions} positions, and the files hold ${held} weights`;
  throw new ModelFolderError("MODEL_FOLDER_INVALID_CONFIG", path, message);
}

/** Sets the parameters of `model` from a folder of the same architecture. @throws ModelFolderError */
export async function loadWeights(model: CausalLM, folder: ModelFolder, path: string): Promise<void> {
  const fused = [...folder.tensors.keys()].some((name) => name.endsWith(".mlp.experts.gate_up_proj"));
  for (const [parameter, parts] of diskLayout(model, fused ? "fused" : "legacy")) {
    const data = new Float32Array(parameter.size);
    for (const part of parts) data.set(await readPart(folder, part, path), part.offset);
    parameter.set(data);
  }
}

async function readPart(folder: ModelFolder, part: DiskTensor, path: string): Promise<Float32Array> {
  const info = folder.tensors.get(part.name);
  if (!info) throw new ModelFolderError("MODEL_FOLDER_MISSING_TENSOR", path, `"${part.name}" is missing`);
  if (!sameShape(info.shape, part.shape)) {
    const shapes = `[${info.shape.join(", ")}], but config.json asks for [${part.shape.join(", ")}]`;
    throw new ModelFolderError("MODEL_FOLDER_WRONG_SHAPE", path, `"${part.name}" is ${shapes}`);
  }
  return await folder.readF32(part.name);
}

export interface SaveModelOptions {
  /** What `config.json` says beyond the architecture: token ids, family. */
  config: TransformerConfig | Omit<TransformerConfig, "raw" | "dtype">;
  /** Dtype on disk. Default "float32". */
  dtype?: ConfigDtype;
  /** Folder whose tokenizer files are copied. */
  tokenizerFrom?: string;
  /** Further files by name. */
  files?: Readonly<Record<string, string | object>>;
  overwrite?: boolean;
  shardBytes?: number;
}

const storage = { float32: "F32", bfloat16: "BF16", float16: "F16" } as const;

/**
 * Writes a Hugging Face folder that `LlamaForCausalLM` or `MixtralForCausalLM` loads; it appears whole or not at all.
 * @throws InvalidUseError for a parameter that the architecture does not have, such as an adapter's
 */
export async function saveModel(model: CausalLM, path: string, options: SaveModelOptions): Promise<void> {
  const { config, dtype = "float32", tokenizerFrom, files = {}, overwrite, shardBytes } = options;
  const layout = diskLayout(model);
  const declarations = [...layout.values()].flat().map(({ name, shape }) => ({ name, shape, dtype: storage[dtype] }));
  const writer = await ModelFolderWriter.create(path, declarations, {
    ...(overwrite === undefined ? {} : { overwrite }),
    ...(shardBytes === undefined ? {} : { shardBytes }),
  });
  try {
    const json = model instanceof Mixtral ? mixtralConfigJson(config, dtype) : llamaConfigJson(config, dtype);
    await writer.writeFile("config.json", json);
    await writer.writeFile("generation_config.json", generationConfigJson(config));
    for (const [name, content] of Object.entries(files)) await writer.writeFile(name, content);
    if (tokenizerFrom) await writer.copyFiles(tokenizerFrom);
    for (const [parameter, parts] of layout) await writeParts(writer, parameter, parts, storage[dtype]);
    await writer.finish();
  } catch (error) {
    await writer.abort();
    throw error;
  }
}

async function writeParts(
  writer: ModelFolderWriter,
  parameter: Parameter,
  parts: readonly DiskTensor[],
  dtype: "F32" | "BF16" | "F16",
): Promise<void> {
  const data = await parameter.data();
  const values = data instanceof Uint16Array ? bf16ToF32(data) : Float32Array.from(data);
  for (const { name, shape, offset } of parts) {
    const size = shape.reduce((product, each) => product * each, 1);
    await writer.write(name, encodeFloats(dtype, values.subarray(offset, offset + size)));
  }
}
