import { readFile, realpath, stat } from "node:fs/promises";
import { basename, dirname, isAbsolute, join, posix, relative, sep, win32 } from "node:path";
import { z } from "zod";
import { ModelFolderError } from "./errors.js";
import type { FilePlace } from "./file-place.js";
import { findJsonFault } from "./json-structure.js";
import { SafetensorsFile } from "./safetensors.js";
import type { TensorInfo } from "./safetensors-header.js";

export const singleFileName = "model.safetensors";
export const indexFileName = "model.safetensors.index.json";

const indexSchema = z.object({ weight_map: z.record(z.string(), z.string()) });

/** The weights of a Hugging Face model folder: one safetensors file, or shards with an index. */
export class ModelFolder {
  readonly tensors: ReadonlyMap<string, TensorInfo>;
  readonly #files: readonly SafetensorsFile[];
  readonly #fileOf: ReadonlyMap<string, SafetensorsFile>;

  private constructor(
    readonly path: string,
    files: readonly SafetensorsFile[],
    fileOf: ReadonlyMap<string, SafetensorsFile>,
  ) {
    this.#files = files;
    this.#fileOf = fileOf;
    this.tensors = new Map([...fileOf].map(([name, file]) => [name, file.info(name)]));
  }

  /**
   * Opens all weight files and checks their headers, and the index against them.
   * @throws ModelFolderError, SafetensorsError
   */
  static async open(path: string): Promise<ModelFolder> {
    if (await isFile(join(path, singleFileName))) {
      const file = await SafetensorsFile.open(await resolveInside(path, singleFileName));
      return new ModelFolder(path, [file], new Map([...file.tensors.keys()].map((name) => [name, file])));
    }
    if (!(await isFile(join(path, indexFileName)))) {
      throw new ModelFolderError(
        "MODEL_FOLDER_MISSING",
        path,
        await whyMissing(path, `there is neither ${singleFileName} nor ${indexFileName} (other formats are not read)`),
      );
    }
    const weightMap = await readIndex(path);
    const files = new Map<string, SafetensorsFile>();
    try {
      for (const shard of new Set(weightMap.values())) {
        const shardPath = await resolveInside(path, shard);
        if (!(await isFile(shardPath))) {
          throw new ModelFolderError(
            "MODEL_FOLDER_MISSING_SHARD",
            path,
            `the index names the file "${shard}", which is not there`,
          );
        }
        files.set(shard, await SafetensorsFile.open(shardPath));
      }
      return new ModelFolder(path, [...files.values()], matchIndex(path, weightMap, files));
    } catch (error) {
      for (const file of files.values()) await file.close();
      throw error;
    }
  }

  /** @throws ModelFolderError `MODEL_FOLDER_UNKNOWN_TENSOR` */
  info(name: string): TensorInfo {
    return this.#file(name).info(name);
  }

  /** See `SafetensorsFile.read`. */
  async read(name: string, target?: Uint8Array): Promise<Uint8Array> {
    return this.#file(name).read(name, target);
  }

  /** See `SafetensorsFile.readRange`. */
  async readRange(name: string, byteOffset: number, target: Uint8Array): Promise<Uint8Array> {
    return this.#file(name).readRange(name, byteOffset, target);
  }

  /** See `SafetensorsFile.placeOf`. */
  placeOf(name: string, byteOffset: number, bytes: number): FilePlace {
    return this.#file(name).placeOf(name, byteOffset, bytes);
  }

  /** See `SafetensorsFile.readF32`. */
  async readF32(name: string): Promise<Float32Array> {
    return this.#file(name).readF32(name);
  }

  /** Reads a JSON file of the folder, such as `config.json`. @throws ModelFolderError */
  async readJson(name: string): Promise<unknown> {
    return readJsonFile(this.path, name);
  }

  async close(): Promise<void> {
    for (const file of this.#files) await file.close();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  #file(name: string): SafetensorsFile {
    const file = this.#fileOf.get(name);
    if (!file) throw new ModelFolderError("MODEL_FOLDER_UNKNOWN_TENSOR", this.path, `there is no tensor "${name}"`);
    return file;
  }
}

async function readIndex(folder: string): Promise<Map<string, string>> {
  const invalid = (message: string) =>
    new ModelFolderError("MODEL_FOLDER_INVALID_INDEX", folder, `${indexFileName}: ${message}`);
  const text = await readFile(await resolveInside(folder, indexFileName), "utf8");
  const fault = findJsonFault(text, { maxDepth: 16 });
  if (fault?.kind === "duplicate")
    throw new ModelFolderError("MODEL_FOLDER_DUPLICATE_TENSOR", folder, `${indexFileName}: ${fault.message}`);
  if (fault) throw invalid(fault.message);
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch (cause) {
    throw invalid(`not JSON (${String(cause)})`);
  }
  const parsed = indexSchema.safeParse(json);
  if (!parsed.success) throw invalid("weight_map is not an object of tensor names and file names");
  return new Map(Object.entries(parsed.data.weight_map));
}

/** Every tensor exactly once, in the file that the index says; nothing in the files that the index leaves out. */
function matchIndex(
  folder: string,
  weightMap: ReadonlyMap<string, string>,
  files: ReadonlyMap<string, SafetensorsFile>,
): Map<string, SafetensorsFile> {
  const foundIn = new Map<string, string>();
  for (const [shard, file] of files) {
    for (const name of file.tensors.keys()) {
      const other = foundIn.get(name);
      if (other !== undefined)
        throw new ModelFolderError(
          "MODEL_FOLDER_DUPLICATE_TENSOR",
          folder,
          `"${name}" is in both ${other} and ${shard}`,
        );
      foundIn.set(name, shard);
    }
  }
  const fileOf = new Map<string, SafetensorsFile>();
  for (const [name, shard] of weightMap) {
    const found = foundIn.get(name);
    if (found !== shard) {
      const where = found === undefined ? "no file has it" : `it is in ${found}`;
      throw new ModelFolderError(
        "MODEL_FOLDER_MISSING_TENSOR",
        folder,
        `the index places "${name}" in ${shard}, but ${where}`,
      );
    }
    fileOf.set(name, files.get(shard) as SafetensorsFile);
  }
  for (const [name, shard] of foundIn) {
    if (!weightMap.has(name))
      throw new ModelFolderError(
        "MODEL_FOLDER_UNLISTED_TENSOR",
        folder,
        `${shard} has "${name}", which the index does not list`,
      );
  }
  return fileOf;
}

/**
 * The real path of a file that a model folder names, which must lie in the folder. Links are followed; the one place outside
 * that is allowed is the `blobs` folder of the Hugging Face cache, whose `snapshots/<revision>` folders are made of such links.
 * @throws ModelFolderError `MODEL_FOLDER_UNSAFE_PATH`
 */
export async function resolveInside(folder: string, name: string): Promise<string> {
  const unsafe = (reason: string) =>
    new ModelFolderError(
      "MODEL_FOLDER_UNSAFE_PATH",
      folder,
      `the file name "${name}" ${reason}; only files of the folder are read`,
    );
  if (name === "" || name.includes("\0")) throw unsafe("is not a file name");
  if (posix.isAbsolute(name) || win32.isAbsolute(name)) throw unsafe("is an absolute path");
  if (name.split(/[\\/]/).includes("..")) throw unsafe("leaves the folder");
  const path = join(folder, name);
  let real: string;
  try {
    real = await realpath(path);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === "ENOENT") return path;
    if (code !== "ENOTDIR") throw error;
    throw new ModelFolderError("MODEL_FOLDER_MISSING", folder, "this is a file: give the model's folder");
  }
  const root = await realpath(folder);
  const roots = basename(dirname(root)) === "snapshots" ? [root, join(root, "..", "..", "blobs")] : [root];
  if (!roots.some((allowed) => contains(allowed, real))) throw unsafe(`is a link to ${real}`);
  return real;
}

function contains(root: string, path: string): boolean {
  const inside = relative(root, path);
  return inside !== "" && inside !== ".." && !inside.startsWith(`..${sep}`) && !isAbsolute(inside);
}

/** Reads a JSON file of a model folder. @throws ModelFolderError `MODEL_FOLDER_MISSING` or `MODEL_FOLDER_INVALID_CONFIG` */
export async function readJsonFile(folder: string, name: string): Promise<unknown> {
  const path = await resolveInside(folder, name);
  let text: string;
  try {
    text = await readFile(path, "utf8");
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code !== "ENOENT") throw cause;
    throw new ModelFolderError("MODEL_FOLDER_MISSING", folder, await whyMissing(folder, `there is no ${name}`), {
      cause,
    });
  }
  try {
    return JSON.parse(text) as unknown;
  } catch (cause) {
    throw new ModelFolderError("MODEL_FOLDER_INVALID_CONFIG", folder, `${name} is not JSON (${String(cause)})`, {
      cause,
    });
  }
}

/** @param missing what is said of a folder that is there */
export async function whyMissing(folder: string, missing: string): Promise<string> {
  const isFolder = await stat(folder).then(
    (found) => found.isDirectory(),
    () => false,
  );
  if (!isFolder)
    return "there is no such folder: give a folder on this machine (`hf download` fetches models of the Hub)";
  if (!(await isFile(join(folder, "adapter_config.json")))) return missing;
  return `${missing}, but an adapter: merge it into its model first (merge_and_unload of peft)`;
}

async function isFile(path: string): Promise<boolean> {
  try {
    return (await stat(path)).isFile();
  } catch {
    return false;
  }
}
