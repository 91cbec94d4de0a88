import { open, rename, rm } from "node:fs/promises";
import { dirname } from "node:path";
import { syncDirectory, temporarySibling, writeFully } from "./atomic-file.js";
import { elementCount } from "./dtype.js";
import { encodeFloats } from "./half.js";

/** A value of GGUF metadata; numbers say their type. */
export type GgufValue =
  | { type: "u32" | "f32"; value: number }
  | { type: "bool"; value: boolean }
  | { type: "string"; value: string }
  | { type: "strings"; value: readonly string[] }
  | { type: "i32s" | "f32s"; value: readonly number[] };

export type GgufDtype = "F32" | "F16" | "BF16";

/** A tensor to be written; its values are asked for when it is its turn. */
export interface GgufTensor {
  readonly name: string;
  /** Outermost first, as everywhere here; the file lists them the other way round. */
  readonly shape: readonly number[];
  readonly dtype: GgufDtype;
  read(): Promise<Float32Array>;
}

/** Codes of the format (version 3): https://github.com/ggml-org/ggml/blob/master/docs/gguf.md */
const version = 3;
const alignment = 32;
const dtypeCodes = { F32: 0, F16: 1, BF16: 30 } as const;
const valueCodes = { u32: 4, i32: 5, f32: 6, bool: 7, string: 8, array: 9 } as const;

const padded = (bytes: number): number => Math.ceil(bytes / alignment) * alignment;

/** Little-endian fields one after the other. */
class Fields {
  readonly #parts: Buffer[] = [];

  u32(value: number): this {
    const part = Buffer.alloc(4);
    part.writeUInt32LE(value);
    return this.#add(part);
  }

  i32(value: number): this {
    const part = Buffer.alloc(4);
    part.writeInt32LE(value);
    return this.#add(part);
  }

  u64(value: number): this {
    const part = Buffer.alloc(8);
    part.writeBigUInt64LE(BigInt(value));
    return this.#add(part);
  }

  f32(value: number): this {
    const part = Buffer.alloc(4);
    part.writeFloatLE(value);
    return this.#add(part);
  }

  string(value: string): this {
    const bytes = Buffer.from(value, "utf8");
    this.u64(bytes.length);
    return this.#add(bytes);
  }

  value(entry: GgufValue): this {
    switch (entry.type) {
      case "u32":
        return this.u32(valueCodes.u32).u32(entry.value);
      case "f32":
        return this.u32(valueCodes.f32).f32(entry.value);
      case "bool":
        return this.u32(valueCodes.bool).#add(Buffer.of(entry.value ? 1 : 0));
      case "string":
        return this.u32(valueCodes.string).string(entry.value);
      case "strings":
        this.u32(valueCodes.array).u32(valueCodes.string).u64(entry.value.length);
        for (const each of entry.value) this.string(each);
        return this;
      case "i32s":
        this.u32(valueCodes.array).u32(valueCodes.i32).u64(entry.value.length);
        for (const each of entry.value) this.i32(each);
        return this;
      case "f32s":
        this.u32(valueCodes.array).u32(valueCodes.f32).u64(entry.value.length);
        for (const each of entry.value) this.f32(each);
        return this;
    }
  }

  bytes(): Buffer {
    return Buffer.concat(this.#parts);
  }

  #add(part: Buffer): this {
    this.#parts.push(part);
    return this;
  }
}

/**
 * Writes a GGUF file tensor by tensor, so that memory holds one of them; it appears whole or not at all.
 * @throws RangeError when a tensor's values do not fill its shape
 */
export async function writeGguf(
  path: string,
  metadata: Readonly<Record<string, GgufValue>>,
  tensors: readonly GgufTensor[],
): Promise<void> {
  const entries = Object.entries(metadata);
  const header = new Fields().u32(Buffer.from("GGUF").readUInt32LE()).u32(version);
  header.u64(tensors.length).u64(entries.length);
  for (const [key, value] of entries) header.string(key).value(value);
  let offset = 0;
  const offsets = tensors.map(({ name, shape, dtype }) => {
    header.string(name).u32(shape.length);
    for (const size of [...shape].reverse()) header.u64(size);
    header.u32(dtypeCodes[dtype]).u64(offset);
    const at = offset;
    offset += padded(elementCount(shape) * (dtype === "F32" ? 4 : 2));
    return at;
  });
  const head = header.bytes();
  const dataStart = padded(head.length);
  const temporary = temporarySibling(path);
  const handle = await open(temporary, "wx");
  try {
    await writeFully(handle, head, 0);
    for (const [i, { name, shape, dtype, read }] of tensors.entries()) {
      const values = await read();
      if (values.length !== elementCount(shape))
        throw new RangeError(`${name} [${shape.join(", ")}] got ${values.length} values`);
      await writeFully(handle, encodeFloats(dtype, values), dataStart + offsets[i]!);
    }
    await handle.truncate(dataStart + offset);
    await handle.sync();
    await handle.close();
    await rename(temporary, path);
  } catch (error) {
    await handle.close().catch(() => {});
    await rm(temporary, { force: true });
    throw error;
  }
  await syncDirectory(dirname(path));
}
