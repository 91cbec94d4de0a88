import { statfs } from "node:fs/promises";
import { basename, dirname, resolve } from "node:path";
import { type ConfigDtype, dtypeBytes, type MixtralLayout, type TransformerConfigFields } from "@trefoil/core";
import type { ExpertArrangement } from "./arrangement.js";
import type { FloatDtype } from "./chunks.js";
import { type ComparedField, checkCompatible, type Source } from "./compatibility.js";
import { MixError } from "./errors.js";
import type { RouterInit } from "./router.js";
import { type MixtureTensor, mixtureTensors } from "./tensors.js";

/** What every mixture's folder can be told, whatever its experts are made of. */
export interface MixtureOptions {
  /** Folder to write. */
  output: string;
  /** Default 2. */
  expertsPerToken?: number;
  /** Default: normal with standard deviation 0.02, seed 0. */
  router?: RouterInit;
  /** Default `auto`: each tensor keeps the dtype its sources share, F32 where they differ. */
  outputDtype?: FloatDtype | "auto";
  /** Default `legacy`: the names that transformers and vLLM both read. */
  layout?: MixtralLayout;
  /** Largest shard in bytes. Default 5e9. */
  shardBytes?: number;
  /** Replace an existing output. */
  overwrite?: boolean;
  /** Coefficient of the balancing loss, written to `config.json`. Default 0.01. */
  routerAuxLossCoef?: number;
  /** Stops between tensors and leaves nothing behind. */
  signal?: AbortSignal;
  /** Called as bytes are written: those so far and all. */
  onProgress?: (done: number, total: number) => void;
}

/** What a mixture will be, known before a weight is read. */
export interface MixPlan {
  readonly output: string;
  readonly config: TransformerConfigFields;
  readonly layout: MixtralLayout;
  readonly arrangement: ExpertArrangement;
  /** Layers that are mixtures. */
  readonly moeLayers: readonly number[];
  readonly tensors: readonly (MixtureTensor & { dtype: FloatDtype })[];
  readonly bytes: number;
  /** Free on the disk of the output; undefined where the system does not say. */
  readonly freeBytes: number | undefined;
  /** Parameters in all, and those that one token visits. */
  readonly parameters: number;
  readonly activeParameters: number;
  /** Share of each checkpoint in the averages; sums to 1. */
  readonly weights: readonly number[];
  /** The configurations, field by field. */
  readonly compared: readonly ComparedField[];
  /** Differences between the checkpoints that do no harm. */
  readonly notes: readonly string[];
}

/** A dtype as `config.json` names it. */
export const configDtypes = { F32: "float32", BF16: "bfloat16", F16: "float16" } as const satisfies Record<
  FloatDtype,
  ConfigDtype
>;

export interface PlanInput {
  readonly sources: readonly Source[];
  readonly weights: readonly number[];
  readonly arrangement: ExpertArrangement;
  /** Default: all. */
  readonly moeLayers?: readonly number[];
}

/** Checks the checkpoints and says what would be written, without reading weights. @throws MixError */
export async function planMixture(options: MixtureOptions, input: PlanInput): Promise<MixPlan> {
  const { sources, weights, arrangement } = input;
  const { outputDtype = "auto", layout = "legacy" } = options;
  const experts = arrangement.experts.length;
  const { expertsPerToken = Math.min(2, experts), routerAuxLossCoef = 0.01 } = options;
  if (!Number.isInteger(expertsPerToken) || expertsPerToken < 1 || expertsPerToken > experts) {
    throw new MixError(
      "MIX_OPTIONS",
      `${expertsPerToken} experts per token of ${experts}: give a whole number from 1 to ${experts}`,
    );
  }
  for (const { path } of sources) {
    if (resolve(path) === resolve(options.output))
      throw new MixError("MIX_OPTIONS", `the output ${path} is one of the checkpoints: name another folder`);
  }
  const { notes, compared } = await checkCompatible(sources);
  const paths = sources.map(({ path }) => resolve(path));
  const twice = sources.find(({ path }, i) => paths.indexOf(resolve(path)) < i);
  if (twice) notes.push(`${twice.path} is given more than once: it counts as often, and its experts begin as copies`);
  if (expertsPerToken === 1)
    notes.push("with 1 expert per token its gate is always 1: the router learns from the balancing loss alone");
  const { raw: _, dtype: __, ...first } = sources[0]!.config;
  const allLayers = Array.from({ length: first.layers }, (___, layer) => layer);
  const moeLayers = input.moeLayers ?? allLayers;
  const config: TransformerConfigFields & { experts: number } = {
    ...first,
    family: "mixtral",
    intermediateSize: arrangement.intermediateSize,
    maxPositions: Math.min(...sources.map((source) => source.config.maxPositions)),
    experts,
    expertsPerToken,
    routerAuxLossCoef,
    expertNames: arrangement.experts.map(({ name }) => name),
    ...(moeLayers.length < allLayers.length && { moeLayers }),
  };
  const tensors = mixtureTensors(config, moeLayers, layout).map((tensor) => ({
    ...tensor,
    dtype: dtypeFor(sourceOf(tensor), sources, outputDtype),
  }));
  const sizeOf = ({ shape }: MixtureTensor) => shape.reduce((a, b) => a * b, 1);
  const total = (wanted: (tensor: MixtureTensor) => boolean) =>
    tensors.filter(wanted).reduce((sum, tensor) => sum + sizeOf(tensor), 0);
  const parameters = total(() => true);
  const inExperts = total(({ from }) => from.kind === "experts");
  const bytes = tensors.reduce((sum, tensor) => sum + sizeOf(tensor) * dtypeBytes[tensor.dtype], 0);
  const freeBytes = await freeSpace(options.output);
  if (freeBytes !== undefined && freeBytes < bytes)
    notes.push(`the mixture takes ${bytes} bytes, but only ${freeBytes} are free on its disk`);
  return {
    output: resolve(options.output),
    config,
    layout,
    arrangement,
    moeLayers,
    tensors,
    bytes,
    freeBytes,
    parameters,
    activeParameters: parameters - (inExperts / experts) * (experts - expertsPerToken),
    weights,
    compared,
    notes,
  };
}

/** Free bytes where the folder will be: on the disk of the nearest folder above that exists. */
async function freeSpace(path: string): Promise<number | undefined> {
  for (let folder = dirname(resolve(path)); ; folder = dirname(folder)) {
    const found = await statfs(folder).catch(() => undefined);
    if (found) return found.bavail * found.bsize;
    if (dirname(folder) === folder) return undefined;
  }
}

/** A router takes the dtype of its layer's experts. */
const sourceOf = ({ from }: MixtureTensor): string =>
  from.kind === "router" ? `model.layers.${from.layer}.mlp.gate_proj.weight` : from.source;

/** The weights divided by their sum. @throws MixError */
export function normalizedWeights(weights: readonly number[] | undefined, count: number): number[] {
  if (weights === undefined) return Array.from({ length: count }, () => 1 / count);
  if (weights.length !== count)
    throw new MixError("MIX_OPTIONS", `${weights.length} weights for ${count} experts: give each one, or none`);
  const wrong = weights.find((weight) => !(weight >= 0 && Number.isFinite(weight)));
  if (wrong !== undefined) throw new MixError("MIX_OPTIONS", `a weight is ${wrong}: weights are 0 or more`);
  const sum = weights.reduce((a, b) => a + b, 0);
  if (sum === 0) throw new MixError("MIX_OPTIONS", "the weights sum to 0: at least one must be above 0");
  return weights.map((weight) => weight / sum);
}

/** The dtype asked for, or the one in which all sources hold the tensor. */
export function dtypeFor(name: string, sources: readonly Source[], wanted: FloatDtype | "auto"): FloatDtype {
  if (wanted !== "auto") return wanted;
  const dtypes = new Set(sources.map(({ folder }) => folder.info(name).dtype as FloatDtype));
  return dtypes.size === 1 ? [...dtypes][0]! : "F32";
}

/** Names for experts: those given, or the folders' own where they tell them apart. @throws MixError */
export function expertNames(paths: readonly string[], given: readonly string[] | undefined): string[] {
  const names = given ?? paths.map((path) => basename(resolve(path)));
  if (names.length !== paths.length)
    throw new MixError("MIX_OPTIONS", `${names.length} names for ${paths.length} experts: name each, or none`);
  const repeated = (name: string) => names.filter((other) => other === name).length > 1;
  if (given && names.some(repeated)) throw new MixError("MIX_OPTIONS", `two experts are named ${names.find(repeated)}`);
  return names.map((name, i) => (repeated(name) ? `${name} ${i}` : name));
}
