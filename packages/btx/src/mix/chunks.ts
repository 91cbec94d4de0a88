import {
  decodeFloats,
  dtypeBytes,
  meanOfStored,
  type StoredInFile,
  type StoredMean,
  type StoredWeights,
} from "@trefoil/core";
import type { Source } from "./compatibility.js";
import { MixError } from "./errors.js";

export type FloatDtype = StoredWeights["dtype"];

/** Elements held of each source at a time, about: with all buffers it stays in cache, and is far below any limit of memory. */
const chunkElements = 1 << 18;
/** One chunk being read, one worked on, one being written. */
const bufferSets = 3;

/** Whole rows of one tensor, of every source. */
export interface Chunk {
  readonly firstRow: number;
  readonly rows: number;
  /** Of each source, valid until the next chunk but one is asked for. */
  readonly stored: readonly StoredWeights[];
  readonly sums: StoredMean;
  /** The weighted mean, where it was asked for; valid as long as `stored`. */
  readonly mean?: StoredWeights;
}

/** Memory of chunks, used again for one tensor after the other. */
export class ChunkBuffers {
  readonly #buffers = new Map<string, Uint8Array>();

  /** `bytes` of the buffer of that name, with what it held before. */
  take(name: string, bytes: number): Uint8Array {
    let buffer = this.#buffers.get(name);
    if (!buffer || buffer.byteLength < bytes) {
      buffer = new Uint8Array(bytes);
      this.#buffers.set(name, buffer);
    }
    return buffer.subarray(0, bytes);
  }
}

export interface ChunkOptions {
  /** Share of each source in the mean, summing to 1. */
  readonly weights: readonly number[];
  readonly buffers: ChunkBuffers;
  /** Asks for the mean in this dtype. */
  readonly meanDtype?: FloatDtype;
}

/** One tensor of every source, chunk by chunk, each with the sums of its mean; the next one is read while one is used. */
export async function* chunksOf(
  sources: readonly Source[],
  name: string,
  { weights, buffers, meanDtype }: ChunkOptions,
): AsyncGenerator<Chunk> {
  const infos = sources.map(({ folder }) => folder.info(name));
  const [rows, width] = rowsOf(infos[0]!.shape);
  const step = Math.max(1, Math.floor(chunkElements / width));
  const read = (index: number): Promise<Chunk> | undefined => {
    const firstRow = index * step;
    if (firstRow >= rows) return undefined;
    const count = Math.min(step, rows - firstRow);
    const room = (of: number | string, dtype: FloatDtype): StoredWeights => ({
      dtype,
      bytes: buffers.take(`${index % bufferSets} ${of}`, count * width * dtypeBytes[dtype]),
    });
    const stored = sources.map(({ folder }, i): StoredInFile => {
      const part = room(i, infos[i]!.dtype as FloatDtype);
      const before = firstRow * width * dtypeBytes[part.dtype];
      return { ...part, from: folder.placeOf(name, before, part.bytes.byteLength) };
    });
    const mean = meanDtype && room("mean", meanDtype);
    const pending = meanOfStored(stored, weights, mean).then((sums) => ({
      firstRow,
      rows: count,
      stored,
      sums,
      ...(mean && { mean }),
    }));
    // It may fail while nobody waits for it yet.
    pending.catch(() => undefined);
    return pending;
  };
  let next = read(0);
  try {
    for (let index = 0; next !== undefined; index++) {
      const chunk = await next;
      next = read(index + 1);
      yield chunk;
    }
  } finally {
    // Nothing may be read after the caller has given up: it closes the files.
    await next?.catch(() => undefined);
  }
}

/** The stored values as floats: a view where they are F32. */
export const valuesOf = ({ dtype, bytes }: StoredWeights): Float32Array => decodeFloats(dtype, bytes);

/** A vector is one element per row. */
const rowsOf = (shape: readonly number[]): [rows: number, width: number] => [
  shape[0]!,
  shape.slice(1).reduce((a, b) => a * b, 1),
];

/** @throws MixError naming the first value of a chunk that is NaN or infinite, its tensor and its place */
export function refuseNonFinite(sources: readonly Source[], name: string, { firstRow, stored }: Chunk): void {
  for (const [s, weights] of stored.entries()) {
    const source = valuesOf(weights);
    const at = source.findIndex((value) => !Number.isFinite(value));
    if (at < 0) continue;
    const { path, folder } = sources[s]!;
    const { shape } = folder.info(name);
    const position: number[] = [];
    let rest = firstRow * rowsOf(shape)[1] + at;
    for (const extent of shape.toReversed()) {
      position.unshift(rest % extent);
      rest = Math.floor(rest / extent);
    }
    throw new MixError(
      "MIX_NOT_FINITE",
      `${name} of ${path} is ${source[at]} at [${position.join(", ")}]: the checkpoint is damaged or diverged`,
      { folder: path, tensor: name, position },
    );
  }
}
