import { createHash } from "node:crypto";
import { existsSync } from "node:fs";
import { mkdir, rename, rm } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import {
  type Module,
  type Parameter,
  readJsonFile,
  reasonOf,
  requireFreeOutput,
  SafetensorsFile,
  saveSafetensors,
  storedTensors,
  writeFileAtomic,
} from "@trefoil/core";
import type { z } from "zod";
import { SynthError } from "../errors.js";

const configFile = "config.json";
const weightsFile = "model.safetensors";

/** What a folder of a model of this package declares beside its architecture. */
interface FolderConfig {
  model_type: string;
  architecture: object;
  /** SHA-256 of architecture and weights. */
  sha256: string;
  [key: string]: unknown;
}

/** SHA-256 of an architecture (flat) and the values of parameters by name: equal exactly for models that compute alike. */
export async function hashModel(architecture: object, parameters: ReadonlyMap<string, Parameter>): Promise<string> {
  const fields = Object.entries(architecture).sort(([a], [b]) => (a < b ? -1 : 1));
  const hash = createHash("sha256").update(JSON.stringify(fields));
  for (const name of [...parameters.keys()].sort()) {
    const data = await parameters.get(name)!.data();
    hash.update(`\0${name}\0`).update(new Uint8Array(data.buffer, data.byteOffset, data.byteLength));
  }
  return hash.digest("hex");
}

export interface SaveModelOptions {
  kind: string;
  architecture: object;
  /** Further fields of the configuration. */
  extra?: Readonly<Record<string, unknown>>;
  /** Further JSON files, by name. */
  files?: Readonly<Record<string, object>>;
  overwrite?: boolean;
}

/**
 * Writes `config.json` and `model.safetensors`; the folder appears whole or not at all.
 * @returns the hash
 */
export async function saveModelFolder(module: Module, path: string, options: SaveModelOptions): Promise<string> {
  const { kind, architecture, extra = {}, files = {}, overwrite = false } = options;
  const parameters = module.namedParameters();
  const sha256 = await hashModel(architecture, parameters);
  const config: FolderConfig = { model_type: kind, ...extra, architecture, sha256 };
  const temporary = join(dirname(path), `.tmp-${basename(path)}-${process.pid}`);
  await rm(temporary, { recursive: true, force: true });
  await mkdir(temporary, { recursive: true });
  try {
    await saveSafetensors(join(temporary, weightsFile), await storedTensors(parameters), { format: "trefoil" });
    for (const [name, content] of Object.entries({ ...files, [configFile]: config })) {
      await writeFileAtomic(join(temporary, name), `${JSON.stringify(content, null, 2)}\n`);
    }
    requireFreeOutput({ output: path, overwrite });
    await rm(path, { recursive: true, force: true });
    await rename(temporary, path);
  } catch (error) {
    await rm(temporary, { recursive: true, force: true });
    throw error;
  }
  return sha256;
}

/** What kind of model a folder holds. @throws SynthError `SYNTH_MODEL` where it holds none */
export async function modelKind(path: string): Promise<string | undefined> {
  if (!existsSync(join(path, configFile))) {
    throw new SynthError("SYNTH_MODEL", `${path} holds no ${configFile}: give the folder that \`synth2\` wrote`);
  }
  return ((await readJsonFile(path, configFile)) as Partial<FolderConfig> | null)?.model_type;
}

/** Reads `config.json` and checks its kind. @throws SynthError `SYNTH_MODEL` */
export async function readModelConfig<A extends object>(
  path: string,
  kind: string,
  schema: z.ZodType<A>,
): Promise<{ architecture: A; sha256: string; config: Readonly<FolderConfig> }> {
  const file = join(path, configFile);
  const found = await modelKind(path);
  if (found !== kind) {
    const holds = found === undefined ? "no model" : `a "${found}"`;
    throw new SynthError("SYNTH_MODEL", `${path} holds ${holds}, not a "${kind}"`);
  }
  const config = (await readJsonFile(path, configFile)) as Partial<FolderConfig>;
  const parsed = schema.safeParse(config.architecture);
  if (!parsed.success || typeof config.sha256 !== "string") {
    const reason = parsed.success ? "no sha256" : reasonOf(parsed.error);
    throw new SynthError("SYNTH_MODEL", `${file} does not describe a ${kind} of this version: ${reason}`);
  }
  return { architecture: parsed.data, sha256: config.sha256, config: config as FolderConfig };
}

/**
 * Fills a module's parameters from the folder.
 * @param expected the folder's configuration, as it is written there: fields that came later are not in its hash
 * @throws SynthError `SYNTH_MODEL` where they do not fit or were changed
 */
export async function loadModelWeights(
  module: Module,
  path: string,
  expected: { architecture: object; sha256: string },
): Promise<void> {
  await using file = await SafetensorsFile.open(join(path, weightsFile));
  for (const [name, parameter] of module.namedParameters()) {
    const info = file.tensors.get(name);
    if (info?.dtype !== "F32" || info.bytes !== parameter.bytes) {
      throw new SynthError("SYNTH_MODEL", `${path} holds ${info ? "another size or type of" : "no"} "${name}"`);
    }
    parameter.set(await file.readF32(name));
  }
  const found = await hashModel(expected.architecture, module.namedParameters());
  if (found !== expected.sha256) {
    throw new SynthError("SYNTH_MODEL", `${path} was changed after it was saved: its weights do not match its sha256`);
  }
}
