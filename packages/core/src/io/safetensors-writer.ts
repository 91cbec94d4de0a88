import { type FileHandle, open, rename, rm } from "node:fs/promises";
import { dirname } from "node:path";
import { syncDirectory, temporarySibling, writeFully } from "./atomic-file.js";
import { dtypeBytes, type SafetensorsDtype } from "./dtype.js";
import { SafetensorsError } from "./errors.js";
import type { FilePlace } from "./file-place.js";
import { buildHeader, type TensorDeclaration, type TensorInfo } from "./safetensors-header.js";

/** A tensor in memory, as it is stored. */
export interface StoredTensor {
  readonly dtype: SafetensorsDtype;
  readonly shape: readonly number[];
  /** Row-major, little-endian elements of `dtype`; F16 and BF16 as a `Uint16Array` of bit patterns. */
  readonly data: ArrayBufferView;
}

/**
 * Writes a safetensors file tensor by tensor. All tensors are declared first; their bytes may then come in any order. The
 * file appears under its name when `finish` is done, never before. The bytes equal those of the Python library.
 */
export class SafetensorsWriter {
  readonly tensors: ReadonlyMap<string, TensorInfo>;
  readonly #path: string;
  readonly #temporary: string;
  readonly #written = new Map<string, number>();
  #handle: FileHandle | undefined;
  #hasName = false;

  private constructor(path: string, temporary: string, handle: FileHandle, tensors: ReadonlyMap<string, TensorInfo>) {
    this.#path = path;
    this.#temporary = temporary;
    this.#handle = handle;
    this.tensors = tensors;
  }

  /** @throws SafetensorsError on a name declared twice or an impossible shape */
  static async create(
    path: string,
    declarations: readonly TensorDeclaration[],
    metadata: Readonly<Record<string, string>> = {},
  ): Promise<SafetensorsWriter> {
    const { header, tensors } = buildHeader(path, declarations, metadata);
    const temporary = temporarySibling(path);
    const handle = await open(temporary, "wx");
    const writer = new SafetensorsWriter(path, temporary, handle, tensors);
    try {
      await writeFully(handle, header, 0);
    } catch (error) {
      await writer.abort();
      throw error;
    }
    return writer;
  }

  /** Appends bytes to a tensor: all of it in one call, or its rows over several. */
  async write(name: string, bytes: Uint8Array): Promise<void> {
    const { handle, position } = this.#claim(name, this.#written.get(name) ?? 0, bytes.byteLength);
    await writeFully(handle, bytes, position);
  }

  /**
   * Counts bytes of a tensor from `byteOffset` as written and says where native code is to write them. Writes may overlap in
   * time; each byte is to be written once, which is the caller's to see to: `finish` only counts them.
   */
  placeFor(name: string, byteOffset: number, bytes: number): FilePlace {
    const { handle, position } = this.#claim(name, byteOffset, bytes);
    return { descriptor: handle.fd, position };
  }

  #claim(name: string, byteOffset: number, bytes: number): { handle: FileHandle; position: number } {
    const info = this.tensors.get(name);
    if (!info) throw new SafetensorsError("SAFETENSORS_UNKNOWN_TENSOR", this.#path, `"${name}" was not declared`, name);
    if (!this.#handle) throw new SafetensorsError("SAFETENSORS_CLOSED", this.#path, "the writer is finished", name);
    const written = (this.#written.get(name) ?? 0) + bytes;
    if (byteOffset + bytes > info.bytes || written > info.bytes) {
      throw new SafetensorsError(
        "SAFETENSORS_OUT_OF_RANGE",
        this.#path,
        `"${name}" ${info.dtype} [${info.shape.join(", ")}] takes ${info.bytes} bytes, but ${Math.max(written, byteOffset + bytes)} were written`,
        name,
      );
    }
    this.#written.set(name, written);
    return { handle: this.#handle, position: info.byteOffset + byteOffset };
  }

  /**
   * Gives the file its name before its bytes are on disk, for a folder that nobody looks into yet; `finish` is still to come.
   * @throws SafetensorsError `SAFETENSORS_INCOMPLETE` when a tensor lacks bytes; the temporary file is then removed
   */
  async giveName(): Promise<void> {
    await this.#orAbort(async () => {
      for (const [name, { bytes }] of this.tensors) {
        const written = this.#written.get(name) ?? 0;
        if (written < bytes) {
          throw new SafetensorsError(
            "SAFETENSORS_INCOMPLETE",
            this.#path,
            `${written} of ${bytes} bytes of "${name}" were written`,
            name,
          );
        }
      }
      await rename(this.#temporary, this.#path);
      this.#hasName = true;
    });
  }

  /** Waits until all bytes are on disk and gives the file its name. @throws SafetensorsError as `giveName` */
  async finish(): Promise<void> {
    await this.#orAbort(async (handle) => await handle.sync());
    if (!this.#hasName) await this.giveName();
    await this.#handle?.close();
    this.#handle = undefined;
    await syncDirectory(dirname(this.#path));
  }

  async #orAbort(step: (handle: FileHandle) => Promise<void>): Promise<void> {
    if (!this.#handle) throw new SafetensorsError("SAFETENSORS_CLOSED", this.#path, "the writer is finished");
    try {
      await step(this.#handle);
    } catch (error) {
      await this.abort();
      throw error;
    }
  }

  /** Gives up: removes the file. Does nothing after `finish`. */
  async abort(): Promise<void> {
    const handle = this.#handle;
    this.#handle = undefined;
    await handle?.close();
    await rm(handle && this.#hasName ? this.#path : this.#temporary, { force: true });
  }
}

/**
 * Writes tensors held in memory: to a temporary file, synced, renamed.
 * @throws SafetensorsError `SAFETENSORS_SIZE_MISMATCH` when data and shape differ in size
 */
export async function saveSafetensors(
  path: string,
  tensors: Readonly<Record<string, StoredTensor>>,
  metadata: Readonly<Record<string, string>> = {},
): Promise<void> {
  const entries = Object.entries(tensors);
  const writer = await SafetensorsWriter.create(
    path,
    entries.map(([name, { dtype, shape }]) => ({ name, dtype, shape })),
    metadata,
  );
  try {
    for (const [name, { dtype, shape, data }] of entries) {
      const { bytes } = writer.tensors.get(name) as TensorInfo;
      if (data.byteLength !== bytes) {
        throw new SafetensorsError(
          "SAFETENSORS_SIZE_MISMATCH",
          path,
          `"${name}" ${dtype} [${shape.join(", ")}] takes ${bytes / dtypeBytes[dtype]} elements (${bytes} bytes), but its data has ${data.byteLength} bytes`,
          name,
        );
      }
      await writer.write(name, new Uint8Array(data.buffer, data.byteOffset, data.byteLength));
    }
  } catch (error) {
    await writer.abort();
    throw error;
  }
  await writer.finish();
}
