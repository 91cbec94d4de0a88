import { getSystemErrorName } from "node:util";
import { addon } from "@trefoil/native";
import type { FilePlace } from "../io/file-place.js";

/** Weights as a checkpoint stores them. */
export interface StoredWeights {
  readonly dtype: "F32" | "F16" | "BF16";
  /** Little-endian elements, aligned or not. Not copied: leave them alone until the promise settles. */
  readonly bytes: Uint8Array;
}

/** Stored weights to be filled from a file. */
export interface StoredInFile extends StoredWeights {
  readonly from: FilePlace;
}

export interface StoredMean {
  /** Of the mean. */
  readonly squaredNorm: number;
  /** Of each source from the mean. Not finite, or the norm is not, exactly when some value of some source is not. */
  readonly squaredDistances: number[];
  /** Whether a finite mean became infinite in the target's dtype. */
  readonly overflow: boolean;
}

/**
 * The weighted mean of stored weights of one size, on another thread: computed in double precision, as the first source plus weighted
 * differences, so that equal sources give exactly themselves; rounded to F32, and from there to the target's dtype.
 * @param sources in memory, or all in files: they are then read first, in stretches that are still in the cache when they are summed
 * @param weights summing to 1
 * @param target receives the mean, where it is wanted
 */
export async function meanOfStored(
  sources: readonly StoredWeights[] | readonly StoredInFile[],
  weights: readonly number[],
  target?: StoredWeights,
): Promise<StoredMean> {
  const [bytes, dtypes] = [sources.map((source) => source.bytes), sources.map(({ dtype }) => dtype)];
  const [overflow, squaredNorm, ...squaredDistances] = await withSystemCode(
    addon().weightedMean(
      bytes,
      dtypes,
      [...weights],
      target?.bytes,
      target?.dtype,
      ...(isInFiles(sources) ? placesOf(sources.map(({ from }) => from)) : []),
    ),
  );
  return { overflow: overflow === 1, squaredNorm: squaredNorm!, squaredDistances };
}

const isInFiles = (sources: readonly StoredWeights[]): sources is readonly StoredInFile[] =>
  sources.length > 0 && sources.every((source) => "from" in source);

const placesOf = (places: readonly FilePlace[]): [descriptors: number[], positions: number[]] => [
  places.map(({ descriptor }) => descriptor),
  places.map(({ position }) => position),
];

/** What the system refused is an error as Node's own are: "ENOSPC" and the like. */
async function withSystemCode<R>(call: Promise<R>): Promise<R> {
  try {
    return await call;
  } catch (error) {
    const { errno } = error as NodeJS.ErrnoException;
    throw errno === undefined ? error : Object.assign(error as Error, { code: getSystemErrorName(errno) });
  }
}

/**
 * Writes pieces of files on another thread and has the system begin to move them to the disk.
 * @returns a hash of 53 bits for each, to tell whether bytes read back are those written. Not against anybody's intent.
 */
export async function writeStored(pieces: readonly { bytes: Uint8Array; to: FilePlace }[]): Promise<number[]> {
  const bytes = pieces.map((piece) => piece.bytes);
  return [...(await withSystemCode(addon().writeStored(bytes, ...placesOf(pieces.map(({ to }) => to)))))];
}

/** Reads pieces of files on another thread. @returns the hash of each, as `writeStored` does */
export async function storedChecksums(pieces: readonly { bytes: number; from: FilePlace }[]): Promise<number[]> {
  const lengths = pieces.map(({ bytes }) => bytes);
  return [...(await withSystemCode(addon().storedChecksums(lengths, ...placesOf(pieces.map(({ from }) => from)))))];
}
