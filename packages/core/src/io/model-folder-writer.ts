import { copyFile, lstat, mkdir, open, readdir, readFile, rename, rm, writeFile } from "node:fs/promises";
import { basename, dirname, join, resolve } from "node:path";
import { syncDirectory, temporaryPrefix, temporarySibling, writeFileSynced } from "./atomic-file.js";
import { dtypeBytes, elementCount } from "./dtype.js";
import { ModelFolderError } from "./errors.js";
import type { FilePlace } from "./file-place.js";
import { hubJson } from "./hub-json.js";
import { indexFileName, resolveInside, singleFileName } from "./model-folder.js";
import { isOwnerGone, thisProcess } from "./process-owner.js";
import type { TensorDeclaration } from "./safetensors-header.js";
import { SafetensorsWriter } from "./safetensors-writer.js";

export interface ModelFolderWriterOptions {
  /** Largest shard in bytes; a tensor larger than this has a shard of its own. Default 5e9. */
  shardBytes?: number;
  /** Replace an existing folder, as a whole and at the end. Default: an existing one is refused. */
  overwrite?: boolean;
  /** Metadata of each weight file. Default `{"format": "pt"}`, which transformers 4 insists on. */
  metadata?: Readonly<Record<string, string>>;
}

/** The files that make a tokenizer, of which a folder has some. */
const tokenizerFileNames = [
  "tokenizer.json",
  "tokenizer_config.json",
  "special_tokens_map.json",
  "added_tokens.json",
  "tokenizer.model",
  "vocab.json",
  "merges.txt",
  "chat_template.jinja",
] as const;

/** Says in a temporary folder who writes it, so that the next run can remove what a killed one left. */
const ownerFileName = ".owner.json";

/**
 * Writes a Hugging Face model folder tensor by tensor. Everything goes to a temporary folder beside the target, which takes
 * the target's name in `finish`: whoever looks sees no folder or a whole one.
 */
export class ModelFolderWriter {
  readonly #path: string;
  readonly #temporary: string;
  readonly #overwrite: boolean;
  readonly #shards: readonly { file: string; writer: SafetensorsWriter }[];
  readonly #shardOf: ReadonlyMap<string, { file: string; writer: SafetensorsWriter }>;

  private constructor(
    path: string,
    temporary: string,
    overwrite: boolean,
    shards: { file: string; writer: SafetensorsWriter }[],
  ) {
    this.#path = path;
    this.#temporary = temporary;
    this.#overwrite = overwrite;
    this.#shards = shards;
    this.#shardOf = new Map(shards.flatMap((shard) => [...shard.writer.tensors.keys()].map((name) => [name, shard])));
  }

  /**
   * Removes what killed runs on this machine left of the same folder, and prepares a temporary one.
   * @param declarations every tensor; shards are filled in this order
   * @throws ModelFolderError `MODEL_FOLDER_EXISTS`, `MODEL_FOLDER_DUPLICATE_TENSOR`; SafetensorsError
   */
  static async create(
    path: string,
    declarations: readonly TensorDeclaration[],
    options: ModelFolderWriterOptions = {},
  ): Promise<ModelFolderWriter> {
    const target = resolve(path);
    const { shardBytes = 5e9, overwrite = false, metadata = { format: "pt" } } = options;
    if (!overwrite) await refuseExisting(target);
    const names = new Set<string>();
    for (const { name } of declarations) {
      if (names.has(name))
        throw new ModelFolderError("MODEL_FOLDER_DUPLICATE_TENSOR", target, `"${name}" is declared twice`);
      names.add(name);
    }
    const temporary = await temporaryFolderFor(target);
    const shards: { file: string; writer: SafetensorsWriter }[] = [];
    try {
      const plan = planShards(declarations, shardBytes);
      for (const [i, tensors] of plan.entries()) {
        const file =
          plan.length === 1 ? singleFileName : `model-${fiveDigits(i + 1)}-of-${fiveDigits(plan.length)}.safetensors`;
        shards.push({ file, writer: await SafetensorsWriter.create(join(temporary, file), tensors, metadata) });
      }
    } catch (error) {
      for (const { writer } of shards) await writer.abort();
      await rm(temporary, { recursive: true, force: true });
      throw error;
    }
    return new ModelFolderWriter(target, temporary, overwrite, shards);
  }

  /** Appends bytes to a tensor: all of it in one call, or its rows over several. Tensors come in any order. */
  async write(name: string, bytes: Uint8Array): Promise<void> {
    await this.#writerOf(name).write(name, bytes);
  }

  /** See `SafetensorsWriter.placeFor`. */
  placeFor(name: string, byteOffset: number, bytes: number): FilePlace {
    return this.#writerOf(name).placeFor(name, byteOffset, bytes);
  }

  #writerOf(name: string): SafetensorsWriter {
    const shard = this.#shardOf.get(name);
    if (!shard) throw new ModelFolderError("MODEL_FOLDER_UNKNOWN_TENSOR", this.#path, `"${name}" was not declared`);
    return shard.writer;
  }

  /** Adds a file such as `config.json`: an object is written by `hubJson`. */
  async writeFile(name: string, content: string | Uint8Array | object): Promise<void> {
    const isRaw = typeof content === "string" || content instanceof Uint8Array;
    await writeFileSynced(await resolveInside(this.#temporary, name), isRaw ? content : hubJson(content));
  }

  /** Copies those of the named files that the other folder has, the tokenizer's by default. Returns the names copied. */
  async copyFiles(folder: string, names: readonly string[] = tokenizerFileNames): Promise<string[]> {
    const copied: string[] = [];
    for (const name of names) {
      const source = await resolveInside(folder, name);
      const target = await resolveInside(this.#temporary, name);
      try {
        await copyFile(source, target);
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code === "ENOENT") continue;
        throw error;
      }
      const handle = await open(target, "r+");
      await handle.sync().finally(() => handle.close());
      copied.push(name);
    }
    return copied;
  }

  /**
   * Completes the weight files, writes the index where there are several, and gives the folder its name. On an error the
   * temporary folder is removed and an existing target stays as it was.
   * @param options.verify looks at the complete folder before it gets its name; what it throws is an error of `finish`
   */
  async finish(options: { verify?: (folder: string) => Promise<void> } = {}): Promise<void> {
    try {
      for (const { writer } of this.#shards) await writer.giveName();
      if (this.#shards.length > 1) await this.writeFile(indexFileName, this.#index());
      // The disk is at work while the folder is looked at.
      const outcomes = await Promise.allSettled([options.verify?.(this.#temporary), this.#finishShards()]);
      for (const outcome of outcomes) if (outcome.status === "rejected") throw outcome.reason;
      await rm(join(this.#temporary, ownerFileName), { force: true });
      await syncDirectory(this.#temporary);
      if (this.#overwrite) await this.#replaceTarget();
      else {
        await refuseExisting(this.#path);
        await rename(this.#temporary, this.#path);
      }
    } catch (error) {
      await this.abort();
      throw error;
    }
    await syncDirectory(dirname(this.#path));
  }

  async #finishShards(): Promise<void> {
    for (const { writer } of this.#shards) await writer.finish();
  }

  /** Gives up: removes everything written. Does nothing after `finish`. */
  async abort(): Promise<void> {
    for (const { writer } of this.#shards) await writer.abort();
    await rm(this.#temporary, { recursive: true, force: true });
  }

  /** Between the two renames the old folder exists under its temporary name only, and is whole. */
  async #replaceTarget(): Promise<void> {
    const old = temporarySibling(`${this.#path}-old`);
    const existed = await rename(this.#path, old).then(
      () => true,
      (error: NodeJS.ErrnoException) => {
        if (error.code === "ENOENT") return false;
        throw error;
      },
    );
    try {
      await rename(this.#temporary, this.#path);
    } catch (error) {
      if (existed) await rename(old, this.#path);
      throw error;
    }
    if (existed) await rm(old, { recursive: true, force: true });
  }

  #index(): object {
    let totalSize = 0;
    const entries: [string, string][] = [];
    for (const { file, writer } of this.#shards) {
      for (const [name, { bytes }] of writer.tensors) {
        totalSize += bytes;
        entries.push([name, file]);
      }
    }
    entries.sort(([a], [b]) => (a < b ? -1 : 1));
    return { metadata: { total_size: totalSize }, weight_map: Object.fromEntries(entries) };
  }
}

/**
 * A new folder beside `path`, for what is made on the way to it. Where a kill leaves it, the next writer of `path` on this machine
 * removes it.
 */
export async function temporaryFolderFor(path: string): Promise<string> {
  const target = resolve(path);
  await mkdir(dirname(target), { recursive: true });
  await removeAbandoned(target);
  const temporary = temporarySibling(target);
  await mkdir(temporary);
  await writeFile(join(temporary, ownerFileName), JSON.stringify(thisProcess(new Date())));
  return temporary;
}

/**
 * Temporary folders of `target` whose writer is gone for certain. Of others, only the user knows whether they are in use; a
 * replaced folder that was never put back (`-old-`) is not touched either.
 */
async function removeAbandoned(target: string): Promise<void> {
  for (const name of await readdir(dirname(target))) {
    if (!name.startsWith(temporaryPrefix(target))) continue;
    const folder = join(dirname(target), name);
    const owner = await readFile(join(folder, ownerFileName), "utf8").catch(() => "");
    if (isOwnerGone(owner)) await removeOwnedFolder(folder);
  }
}

/** Its owner file goes last: whoever is killed on the way leaves a folder that the next run can tell. */
async function removeOwnedFolder(folder: string): Promise<void> {
  for (const name of await readdir(folder))
    if (name !== ownerFileName) await rm(join(folder, name), { recursive: true, force: true });
  await rm(folder, { recursive: true, force: true });
}

function planShards(declarations: readonly TensorDeclaration[], shardBytes: number): TensorDeclaration[][] {
  const shards: TensorDeclaration[][] = [[]];
  let filled = 0;
  for (const declaration of declarations) {
    const bytes = elementCount(declaration.shape) * dtypeBytes[declaration.dtype];
    if (filled > 0 && filled + bytes > shardBytes) {
      shards.push([]);
      filled = 0;
    }
    shards.at(-1)?.push(declaration);
    filled += bytes;
  }
  return shards;
}

async function refuseExisting(path: string): Promise<void> {
  try {
    await lstat(path);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return;
    throw error;
  }
  throw new ModelFolderError(
    "MODEL_FOLDER_EXISTS",
    path,
    `"${basename(path)}" exists: choose another folder or allow overwriting`,
  );
}

function fiveDigits(value: number): string {
  return String(value).padStart(5, "0");
}
