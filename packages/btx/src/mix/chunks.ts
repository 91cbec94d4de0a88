import { decodeFloats, dtypeBytes, type StoredWeights } from "@trefoil/core";
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
}

/** One tensor of every source, chunk by chunk; the next one is read while one is used. */
export async function* chunksOf(sources: readonly Source[], name: string): AsyncGenerator<Chunk> {
  const infos = sources.map(({ folder }) => folder.info(name));
  const [rows, width] = rowsOf(infos[0]!.shape);
  const step = Math.max(1, Math.floor(chunkElements / width));
  const buffers = Array.from({ length: bufferSets }, () =>
    infos.map(({ dtype }) => new Uint8Array(Math.min(step, rows) * width * dtypeBytes[dtype])),
  );
  const read = (index: number): Promise<Uint8Array[]> | undefined => {
    const firstRow = index * step;
    if (firstRow >= rows) return undefined;
    const set = buffers[index % bufferSets]!;
    const pending = Promise.all(
      sources.map(({ folder }, i) => {
        const bytes = dtypeBytes[infos[i]!.dtype] * width;
        const target = set[i]!.subarray(0, Math.min(step, rows - firstRow) * bytes);
        return folder.readRange(name, firstRow * bytes, target);
      }),
    );
    // It may fail while nobody waits for it yet.
    pending.catch(() => undefined);
    return pending;
  };
  let next = read(0);
  for (let index = 0; next !== undefined; index++) {
    const stored = (await next).map((bytes, i) => ({ dtype: infos[i]!.dtype as FloatDtype, bytes }));
    next = read(index + 1);
    yield { firstRow: index * step, rows: Math.min(step, rows - index * step), stored };
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
