import { type FileHandle, open } from "node:fs/promises";
import { readFully } from "./atomic-file.js";
import type { SafetensorsDtype } from "./dtype.js";
import { SafetensorsError } from "./errors.js";
import type { FilePlace } from "./file-place.js";
import { decodeFloats } from "./half.js";
import {
  maxHeaderBytes,
  parseHeader,
  type SafetensorsHeader,
  type TensorInfo,
  tooLarge,
} from "./safetensors-header.js";
import type { StoredTensor } from "./safetensors-writer.js";

/** A safetensors file opened for reading. Only its header is held in memory. */
export class SafetensorsFile {
  readonly tensors: ReadonlyMap<string, TensorInfo>;
  readonly metadata: Readonly<Record<string, string>>;
  #handle: FileHandle | undefined;

  private constructor(
    readonly path: string,
    header: SafetensorsHeader,
    handle: FileHandle,
  ) {
    this.tensors = header.tensors;
    this.metadata = header.metadata;
    this.#handle = handle;
  }

  /**
   * Opens a file and checks its whole header against the file before anything is read from it.
   * @throws SafetensorsError naming what is wrong and the tensor; a system error when the file cannot be opened
   */
  static async open(path: string): Promise<SafetensorsFile> {
    const handle = await open(path, "r");
    try {
      const { size } = await handle.stat();
      const prefix = new Uint8Array(8);
      if (size < 8 || (await readFully(handle, prefix, 0)) < 8) {
        throw new SafetensorsError(
          "SAFETENSORS_TRUNCATED",
          path,
          `the file has ${size} bytes, too few for a header: download or copy it again`,
        );
      }
      const headerBytes = new DataView(prefix.buffer).getBigUint64(0, true);
      if (headerBytes > BigInt(maxHeaderBytes)) throw tooLarge(path, headerBytes);
      const json = new Uint8Array(Number(headerBytes));
      if (8 + json.byteLength > size || (await readFully(handle, json, 8)) < json.byteLength) {
        throw new SafetensorsError(
          "SAFETENSORS_TRUNCATED",
          path,
          `the header has ${headerBytes} bytes, but the file only ${size}: download or copy it again`,
        );
      }
      return new SafetensorsFile(path, parseHeader(path, json, size - 8 - json.byteLength), handle);
    } catch (error) {
      await handle.close();
      throw error;
    }
  }

  /** Where `name` lies. @throws SafetensorsError `SAFETENSORS_UNKNOWN_TENSOR` */
  info(name: string): TensorInfo {
    const info = this.tensors.get(name);
    if (!info)
      throw new SafetensorsError("SAFETENSORS_UNKNOWN_TENSOR", this.path, `there is no tensor "${name}"`, name);
    return info;
  }

  /**
   * Reads a tensor's stored bytes: row-major, little-endian.
   * @param target exactly as large as the tensor; made when absent
   */
  async read(name: string, target?: Uint8Array): Promise<Uint8Array> {
    const { bytes } = this.info(name);
    const filled = target ?? new Uint8Array(bytes);
    if (filled.byteLength !== bytes) {
      throw new SafetensorsError(
        "SAFETENSORS_OUT_OF_RANGE",
        this.path,
        `"${name}" has ${bytes} bytes, the target ${filled.byteLength}`,
        name,
      );
    }
    return this.readRange(name, 0, filled);
  }

  /** Fills `target` with a tensor's bytes from `byteOffset`, counted from the tensor's first byte. */
  async readRange(name: string, byteOffset: number, target: Uint8Array): Promise<Uint8Array> {
    const { handle, position } = this.#range(name, byteOffset, target.byteLength);
    const read = await readFully(handle, target, position);
    if (read < target.byteLength) {
      throw new SafetensorsError(
        "SAFETENSORS_TRUNCATED",
        this.path,
        `the file became shorter while "${name}" was read`,
        name,
      );
    }
    return target;
  }

  /** Where bytes of a tensor lie, for native code to read them. */
  placeOf(name: string, byteOffset: number, bytes: number): FilePlace {
    const { handle, position } = this.#range(name, byteOffset, bytes);
    return { descriptor: handle.fd, position };
  }

  #range(name: string, byteOffset: number, bytes: number): { handle: FileHandle; position: number } {
    const info = this.info(name);
    if (!Number.isSafeInteger(byteOffset) || byteOffset < 0 || byteOffset + bytes > info.bytes) {
      throw new SafetensorsError(
        "SAFETENSORS_OUT_OF_RANGE",
        this.path,
        `bytes [${byteOffset}, ${byteOffset + bytes}) are outside of "${name}", which has ${info.bytes}`,
        name,
      );
    }
    if (!this.#handle) throw new SafetensorsError("SAFETENSORS_CLOSED", this.path, "the file was closed", name);
    return { handle: this.#handle, position: info.byteOffset + byteOffset };
  }

  /**
   * Reads a floating-point tensor as float32; F16 and BF16 widen exactly, F64 rounds.
   * @throws SafetensorsError `SAFETENSORS_UNSUPPORTED_DTYPE` for integers and booleans
   */
  async readF32(name: string): Promise<Float32Array> {
    const { dtype } = this.info(name);
    if (dtype !== "F64" && dtype !== "F32" && dtype !== "F16" && dtype !== "BF16") {
      throw new SafetensorsError(
        "SAFETENSORS_UNSUPPORTED_DTYPE",
        this.path,
        `"${name}" is ${dtype}, not floating point: use read()`,
        name,
      );
    }
    return decodeFloats(dtype, await this.read(name));
  }

  async close(): Promise<void> {
    const handle = this.#handle;
    this.#handle = undefined;
    await handle?.close();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }
}

/** Every tensor of a file, as `saveSafetensors` takes them. @throws SafetensorsError where the file is not whole */
export async function loadSafetensors(path: string): Promise<Record<string, StoredTensor>> {
  const file = await SafetensorsFile.open(path);
  try {
    const entries: [string, StoredTensor][] = [];
    for (const [name, { dtype, shape }] of file.tensors) {
      entries.push([name, { dtype, shape, data: typedView(dtype, await file.read(name)) }]);
    }
    return Object.fromEntries(entries);
  } finally {
    await file.close();
  }
}

const arrayTypes = {
  U64: BigUint64Array,
  I64: BigInt64Array,
  F64: Float64Array,
  F32: Float32Array,
  U32: Uint32Array,
  I32: Int32Array,
  BF16: Uint16Array,
  F16: Uint16Array,
  U16: Uint16Array,
  I16: Int16Array,
  I8: Int8Array,
  U8: Uint8Array,
  BOOL: Uint8Array,
} as const;

/** @param bytes at the start of their buffer, so aligned for every type */
function typedView(dtype: SafetensorsDtype, bytes: Uint8Array): ArrayBufferView {
  return new arrayTypes[dtype](bytes.buffer as ArrayBuffer);
}
