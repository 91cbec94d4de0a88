import { compareLayout, dtypeBytes, elementCount, isDtype, refusedDtypes, type SafetensorsDtype } from "./dtype.js";
import { SafetensorsError } from "./errors.js";
import { findJsonFault } from "./json-structure.js";

/** Longest header that is read, in bytes: the limit of the Python library. */
export const maxHeaderBytes = 100_000_000;

/** Where a tensor lies in its file. */
export interface TensorInfo {
  readonly dtype: SafetensorsDtype;
  readonly shape: readonly number[];
  /** From the start of the file. */
  readonly byteOffset: number;
  readonly bytes: number;
}

export interface TensorDeclaration {
  readonly name: string;
  readonly dtype: SafetensorsDtype;
  readonly shape: readonly number[];
}

export interface SafetensorsHeader {
  /** In the order of the header. */
  readonly tensors: ReadonlyMap<string, TensorInfo>;
  readonly metadata: Readonly<Record<string, string>>;
}

/**
 * Reads and checks a header before any of it is used: syntax, duplicate keys, dtypes, sizes, and that the ranges tile the
 * data exactly.
 * @param header the JSON bytes after the 8-byte length
 * @param dataBytes size of the file after the header
 * @throws SafetensorsError
 */
export function parseHeader(path: string, header: Uint8Array, dataBytes: number): SafetensorsHeader {
  const invalid = (message: string, tensor?: string) =>
    new SafetensorsError(
      "SAFETENSORS_INVALID_HEADER",
      path,
      `${message}. The file is damaged or not safetensors.`,
      tensor,
    );
  let text: string;
  try {
    text = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(header);
  } catch (cause) {
    throw new SafetensorsError("SAFETENSORS_INVALID_HEADER", path, "the header is not UTF-8", undefined, { cause });
  }
  if (!text.startsWith("{")) throw invalid("the header does not start with {");
  const fault = findJsonFault(text, { maxDepth: 3, integersOnly: true });
  if (fault?.kind === "duplicate") {
    throw new SafetensorsError("SAFETENSORS_DUPLICATE_NAME", path, `in the header, ${fault.message}`, fault.key);
  }
  if (fault) throw invalid(`in the header, ${fault.message}`);
  let parsed: Record<string, unknown>;
  try {
    parsed = JSON.parse(text) as Record<string, unknown>;
  } catch (cause) {
    throw new SafetensorsError(
      "SAFETENSORS_INVALID_HEADER",
      path,
      `the header is not JSON (${String(cause)})`,
      undefined,
      { cause },
    );
  }

  const dataStart = 8 + header.byteLength;
  const tensors = new Map<string, TensorInfo>();
  let metadata: Record<string, string> = {};
  for (const [name, entry] of Object.entries(parsed)) {
    if (name === "__metadata__") metadata = checkMetadata(entry, invalid);
    else tensors.set(name, checkEntry(path, name, entry, dataStart, dataBytes, invalid));
  }
  checkTiling(path, tensors, dataStart, dataBytes);
  return { tensors, metadata };
}

type Invalid = (message: string, tensor?: string) => SafetensorsError;

function checkMetadata(entry: unknown, invalid: Invalid): Record<string, string> {
  if (!isPlainObject(entry)) throw invalid("__metadata__ is not an object");
  for (const [key, value] of Object.entries(entry)) {
    if (typeof value !== "string") throw invalid(`__metadata__.${key} is not a string`);
  }
  return entry as Record<string, string>;
}

function checkEntry(
  path: string,
  name: string,
  entry: unknown,
  dataStart: number,
  dataBytes: number,
  invalid: Invalid,
): TensorInfo {
  if (!isPlainObject(entry)) throw invalid(`the entry of "${name}" is not an object`, name);
  const { dtype, shape, data_offsets: offsets, ...rest } = entry;
  const extra = Object.keys(rest)[0];
  if (extra !== undefined) throw invalid(`"${name}" has an unknown field "${extra}"`, name);
  if (typeof dtype !== "string") throw invalid(`"${name}" has no dtype`, name);
  if (refusedDtypes.has(dtype)) {
    throw new SafetensorsError(
      "SAFETENSORS_UNSUPPORTED_DTYPE",
      path,
      `"${name}" is ${dtype}, which is not supported: convert it to BF16 or F32 first`,
      name,
    );
  }
  if (!isDtype(dtype))
    throw new SafetensorsError("SAFETENSORS_UNKNOWN_DTYPE", path, `"${name}" has the unknown dtype "${dtype}"`, name);
  if (!isExtents(shape)) throw invalid(`the shape of "${name}" is not a list of unsigned integers`, name);
  if (!isExtents(offsets) || offsets.length !== 2)
    throw invalid(`data_offsets of "${name}" are not two unsigned integers`, name);
  const [begin, end] = offsets as [number, number];
  if (end < begin) throw invalid(`data_offsets of "${name}" end before they begin: [${begin}, ${end})`, name);
  const needed = elementCount(shape) * dtypeBytes[dtype];
  if (needed !== end - begin) {
    throw new SafetensorsError(
      "SAFETENSORS_SIZE_MISMATCH",
      path,
      `"${name}" ${dtype} [${shape.join(", ")}] takes ${needed} bytes, but its range [${begin}, ${end}) has ${end - begin}`,
      name,
    );
  }
  if (end > dataBytes) {
    throw new SafetensorsError(
      "SAFETENSORS_TRUNCATED",
      path,
      `"${name}" ends at byte ${end} of the data, but the file has only ${dataBytes}: download or copy it again`,
      name,
    );
  }
  return { dtype, shape, byteOffset: dataStart + begin, bytes: needed };
}

function checkTiling(
  path: string,
  tensors: ReadonlyMap<string, TensorInfo>,
  dataStart: number,
  dataBytes: number,
): void {
  const inOrder = [...tensors].sort(([, a], [, b]) => a.byteOffset - b.byteOffset || a.bytes - b.bytes);
  let covered = dataStart;
  let previous = "the header";
  for (const [name, { byteOffset, bytes }] of inOrder) {
    if (byteOffset < covered)
      throw new SafetensorsError("SAFETENSORS_OVERLAP", path, `"${name}" overlaps ${previous}`, name);
    if (byteOffset > covered) {
      throw new SafetensorsError(
        "SAFETENSORS_GAP",
        path,
        `${byteOffset - covered} bytes between ${previous} and "${name}" belong to no tensor`,
        name,
      );
    }
    covered = byteOffset + bytes;
    previous = `"${name}"`;
  }
  const tail = dataStart + dataBytes - covered;
  if (tail > 0)
    throw new SafetensorsError(
      "SAFETENSORS_UNCOVERED_TAIL",
      path,
      `the last ${tail} bytes of the file belong to no tensor`,
    );
}

function isPlainObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function isExtents(value: unknown): value is number[] {
  return Array.isArray(value) && value.every((extent) => Number.isSafeInteger(extent) && extent >= 0);
}

/**
 * Lays tensors out as the Python library does and writes the header: 8-byte length, JSON, spaces to a multiple of 8.
 * @param path for messages only
 */
export function buildHeader(
  path: string,
  declarations: readonly TensorDeclaration[],
  metadata: Readonly<Record<string, string>>,
): { header: Uint8Array; tensors: ReadonlyMap<string, TensorInfo>; fileBytes: number } {
  const ordered = [...declarations].sort(compareLayout);
  const names = new Set<string>();
  const fields: string[] = [];
  if (Object.keys(metadata).length > 0) fields.push(`"__metadata__":${JSON.stringify(metadata)}`);
  const ranges: { begin: number; bytes: number }[] = [];
  let end = 0;
  for (const { name, dtype, shape } of ordered) {
    if (names.has(name) || name === "__metadata__") {
      throw new SafetensorsError("SAFETENSORS_DUPLICATE_NAME", path, `"${name}" is declared twice or reserved`, name);
    }
    names.add(name);
    const bytes = elementCount(shape) * dtypeBytes[dtype];
    if (!isExtents(shape) || Number.isNaN(bytes)) {
      throw new SafetensorsError(
        "SAFETENSORS_SIZE_MISMATCH",
        path,
        `"${name}" has the impossible shape [${shape.join(", ")}] or dtype ${dtype}`,
        name,
      );
    }
    ranges.push({ begin: end, bytes });
    // Built by hand: an object would move names that look like integers to the front.
    fields.push(`${JSON.stringify(name)}:${JSON.stringify({ dtype, shape, data_offsets: [end, end + bytes] })}`);
    end += bytes;
  }
  const json = Buffer.from(`{${fields.join(",")}}`);
  const padded = Math.ceil(json.byteLength / 8) * 8;
  if (padded > maxHeaderBytes) throw tooLarge(path, padded);
  const header = new Uint8Array(8 + padded).fill(0x20);
  new DataView(header.buffer).setBigUint64(0, BigInt(padded), true);
  header.set(json, 8);
  const tensors = new Map(
    ordered.map(({ name, dtype, shape }, i): [string, TensorInfo] => {
      const { begin, bytes } = ranges[i] as { begin: number; bytes: number };
      return [name, { dtype, shape: [...shape], byteOffset: header.byteLength + begin, bytes }];
    }),
  );
  return { header, tensors, fileBytes: header.byteLength + end };
}

export function tooLarge(path: string, bytes: number | bigint): SafetensorsError {
  return new SafetensorsError(
    "SAFETENSORS_HEADER_TOO_LARGE",
    path,
    `the header has ${bytes} bytes; at most ${maxHeaderBytes} are read`,
  );
}
