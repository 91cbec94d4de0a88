import { readdir } from "node:fs/promises";
import { basename, dirname, resolve } from "node:path";
import { crc32 } from "node:zlib";
import {
  type ConfigDtype,
  dtypeBytes,
  generationConfigJson,
  ModelFolder,
  ModelFolderWriter,
  mixtralConfigJson,
  readTransformerConfig,
  type TransformerConfigFields,
} from "@trefoil/core";
import { checkCompatible, type Source } from "./compatibility.js";
import { MixError } from "./errors.js";
import { type RouterInit, routerRows } from "./router.js";
import { type FloatDtype, type Written, writeAverage, writeExperts, writeValues } from "./streaming.js";
import { type MixtureTensor, mixtureTensors } from "./tensors.js";

export interface MixOptions {
  /**
   * Folders of dense checkpoints, branches of one seed; expert i of the mixture is the i-th. The first gives the
   * tokenizer.
   */
  experts: readonly string[];
  /** Folder to write. */
  output: string;
  /** What each expert counts in the average of everything but the feed-forward layers. Default: all the same. */
  weights?: readonly number[];
  /** Default 2. */
  expertsPerToken?: number;
  /** Default: normal with standard deviation 0.02, seed 0. */
  router?: RouterInit;
  /** Default `auto`: each tensor keeps the dtype its sources share, F32 where they differ. */
  outputDtype?: FloatDtype | "auto";
  /** Largest shard in bytes. Default 5e9. */
  shardBytes?: number;
  /** Replace an existing output. */
  overwrite?: boolean;
  /** Coefficient of the balancing loss, written to `config.json`. Default 0.01. */
  routerAuxLossCoef?: number;
  /** Stops between tensors and leaves nothing behind. */
  signal?: AbortSignal;
  /** Called after each tensor: bytes written so far and in all. */
  onProgress?: (done: number, total: number) => void;
}

/** What a mixture will be, known before a weight is read. */
export interface MixPlan {
  readonly output: string;
  readonly config: TransformerConfigFields;
  readonly tensors: readonly (MixtureTensor & { dtype: FloatDtype })[];
  readonly bytes: number;
  /** Parameters in all, and those that one token visits. */
  readonly parameters: number;
  readonly activeParameters: number;
  /** Share of each expert in the averages; sums to 1. */
  readonly weights: readonly number[];
  /** Differences between the checkpoints that do no harm, and leftovers. */
  readonly notes: readonly string[];
}

/** ‖θ_i − θ̄‖ / ‖θ̄‖ of each expert, by the name of the source tensor. */
export type DivergenceReport = Record<string, readonly number[]>;

export interface MixResult extends MixPlan {
  /** Of the averaged tensors: large values mean that the average is far from every branch. */
  readonly averaged: DivergenceReport;
  /** Of the feed-forward tensors, which become experts: 0 means that the experts are the same. */
  readonly experts: DivergenceReport;
}

/** A dtype as `config.json` names it. */
export const configDtypes = { F32: "float32", BF16: "bfloat16", F16: "float16" } as const satisfies Record<
  FloatDtype,
  ConfigDtype
>;

/** Checks the checkpoints and says what would be written, without reading weights. @throws MixError */
export async function planMix(options: MixOptions): Promise<MixPlan> {
  return await withSources(options.experts, (sources) => plan(options, sources));
}

/**
 * Branch-Train-MiX's merge (arXiv 2403.07816, §3.2): the feed-forward layers of N dense checkpoints become the N
 * experts of a mixture, everything else is averaged. Streams: memory stays bounded whatever the size of the model. The
 * folder appears when it is complete and has been read back.
 * @throws MixError when the checkpoints do not fit together, a weight is missing or not finite
 */
export async function mix(options: MixOptions): Promise<MixResult> {
  return await withSources(options.experts, async (sources) => {
    const planned = await plan(options, sources);
    const { shardBytes, overwrite } = options;
    const declarations = planned.tensors.map(({ name, shape, dtype }) => ({ name, shape, dtype }));
    const writer = await ModelFolderWriter.create(planned.output, declarations, {
      ...(shardBytes === undefined ? {} : { shardBytes }),
      ...(overwrite === undefined ? {} : { overwrite }),
    });
    try {
      const { written, averaged, experts } = await writeTensors(sources, planned, options, writer);
      await writeDescriptions(sources, planned, options, writer, { averaged, experts });
      await writer.finish({ verify: (folder) => verify(folder, written) });
      return { ...planned, averaged, experts };
    } catch (error) {
      await writer.abort();
      throw error;
    }
  });
}

/** Opens the checkpoints for as long as `use` takes. */
export async function withSources<R>(experts: readonly string[], use: (sources: Source[]) => Promise<R>): Promise<R> {
  if (experts.length < 2)
    throw new MixError("MIX_OPTIONS", `a mixture needs at least 2 experts, got ${experts.length}`);
  const sources: Source[] = [];
  try {
    for (const path of experts) {
      const config = await readTransformerConfig(path);
      sources.push({ path, config, folder: await ModelFolder.open(path) });
    }
    return await use(sources);
  } finally {
    for (const { folder } of sources) await folder.close();
  }
}

async function plan(options: MixOptions, sources: readonly Source[]): Promise<MixPlan> {
  const count = sources.length;
  const { expertsPerToken = 2, outputDtype = "auto", routerAuxLossCoef = 0.01 } = options;
  if (!Number.isInteger(expertsPerToken) || expertsPerToken < 1 || expertsPerToken > count) {
    throw new MixError(
      "MIX_OPTIONS",
      `${expertsPerToken} experts per token of ${count}: give a whole number from 1 to ${count}`,
    );
  }
  const weights = normalizedWeights(options.weights, count);
  for (const { path } of sources) {
    if (resolve(path) === resolve(options.output))
      throw new MixError("MIX_OPTIONS", `the output ${path} is one of the experts: name another folder`);
  }
  const notes = await checkCompatible(sources);
  notes.push(...(await findLeftovers(options.output)));
  if (expertsPerToken === 1)
    notes.push("with 1 expert per token its gate is always 1: the router learns from the balancing loss alone");
  const { raw: _, dtype: __, ...first } = sources[0]!.config;
  const config: TransformerConfigFields = {
    ...first,
    family: "mixtral",
    maxPositions: Math.min(...sources.map((source) => source.config.maxPositions)),
    experts: count,
    expertsPerToken,
    routerAuxLossCoef,
  };
  const tensors = mixtureTensors(config, count).map((tensor) => ({
    ...tensor,
    dtype: dtypeFor(sourceOf(tensor), sources, outputDtype),
  }));
  const sizeOf = ({ shape }: MixtureTensor) => shape.reduce((a, b) => a * b, 1);
  const parameters = tensors.reduce((total, tensor) => total + sizeOf(tensor), 0);
  const idle = tensors
    .filter(({ from }) => from.kind === "expert" && from.expert >= expertsPerToken)
    .reduce((total, tensor) => total + sizeOf(tensor), 0);
  return {
    output: resolve(options.output),
    config,
    tensors,
    bytes: tensors.reduce((total, tensor) => total + sizeOf(tensor) * dtypeBytes[tensor.dtype], 0),
    parameters,
    activeParameters: parameters - idle,
    weights,
    notes,
  };
}

/** A router takes the dtype of its layer's experts. */
const sourceOf = ({ from }: MixtureTensor): string =>
  from.kind === "router" ? `model.layers.${from.layer}.mlp.gate_proj.weight` : from.source;

/** The weights divided by their sum. @throws MixError */
export function normalizedWeights(weights: readonly number[] | undefined, count: number): number[] {
  if (weights === undefined) return Array.from({ length: count }, () => 1 / count);
  if (weights.length !== count) throw new MixError("MIX_OPTIONS", `${weights.length} weights for ${count} experts`);
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

async function writeTensors(
  sources: readonly Source[],
  { tensors, weights, bytes, config }: MixPlan,
  options: MixOptions,
  writer: ModelFolderWriter,
): Promise<{ written: Map<string, Written>; averaged: DivergenceReport; experts: DivergenceReport }> {
  const written = new Map<string, Written>();
  const averaged: DivergenceReport = {};
  const experts: DivergenceReport = {};
  const rows = routerRows(options.router, sources.length, config.hiddenSize);
  let done = 0;
  const record = (name: string, result: Written) => {
    written.set(name, result);
    done += result.bytes;
    options.onProgress?.(done, bytes);
  };
  for (const { name, from, dtype } of tensors) {
    options.signal?.throwIfAborted();
    if (from.kind === "router") record(name, await writeValues(rows(from.layer), { writer, name, dtype }));
    else if (from.kind === "average") {
      const result = await writeAverage(sources, from.source, weights, { writer, name, dtype });
      averaged[from.source] = result.divergence.relative;
      record(name, result.written);
    } else if (from.expert === 0) {
      // All experts' copies of one matrix are written together: each source is read once.
      const names = tensors.flatMap((other) =>
        other.from.kind === "expert" && other.from.source === from.source ? [other.name] : [],
      );
      const result = await writeExperts(sources, from.source, weights, { writer, names, dtype });
      experts[from.source] = result.divergence.relative;
      result.written.forEach((each, i) => {
        record(names[i]!, each);
      });
    }
  }
  return { written, averaged, experts };
}

async function writeDescriptions(
  sources: readonly Source[],
  { config, tensors, weights }: MixPlan,
  options: MixOptions,
  writer: ModelFolderWriter,
  divergence: { averaged: DivergenceReport; experts: DivergenceReport },
): Promise<void> {
  await writer.writeFile("config.json", mixtralConfigJson(config, configDtypes[tensors[0]!.dtype]));
  await writer.writeFile("generation_config.json", generationConfigJson(config));
  await writer.copyFiles(sources[0]!.path);
  const { router = { kind: "random" } } = options;
  await writer.writeFile("btx_mix.json", {
    experts: sources.map(({ path }, i) => ({ folder: path, weight: weights[i] })),
    router: router.kind === "given" ? { kind: "given" } : router,
    divergence,
  });
}

/** Reads everything back before the folder gets its name. */
async function verify(path: string, written: ReadonlyMap<string, Written>): Promise<void> {
  const folder = await ModelFolder.open(path);
  try {
    const buffer = new Uint8Array(4 << 20);
    for (const [name, expected] of written) {
      let crc = 0;
      const { bytes } = folder.info(name);
      for (let at = 0; at < bytes; at += buffer.byteLength) {
        crc = crc32(await folder.readRange(name, at, buffer.subarray(0, Math.min(buffer.byteLength, bytes - at))), crc);
      }
      if (bytes === expected.bytes && crc === expected.crc) continue;
      throw new MixError(
        "MIX_VERIFICATION",
        `${name} does not read back as it was written: the disk may be failing; nothing was kept`,
        {
          tensor: name,
        },
      );
    }
  } finally {
    await folder.close();
  }
}

/**
 * Folders that a killed mix left beside the output. They are never used; only the user knows whether another mix is
 * running.
 */
async function findLeftovers(output: string): Promise<string[]> {
  const target = resolve(output);
  const names = await readdir(dirname(target)).catch(() => []);
  return names
    .filter((name) => name.startsWith(`.tmp-${basename(target)}-`))
    .map((name) => `${name} beside the output was left by an interrupted run: delete it if none is running`);
}
