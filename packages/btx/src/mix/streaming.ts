import { InitialValues, type StoredMean, type StoredWeights } from "@trefoil/core";
import type { ExpertArrangement, Piece } from "./arrangement.js";
import { type Chunk, type ChunkBuffers, chunksOf, type FloatDtype, refuseNonFinite, valuesOf } from "./chunks.js";
import type { Source } from "./compatibility.js";
import { convert, encode, refuseOverflow, type Target, type TensorSink } from "./sink.js";
import type { ExpertTarget, Projection } from "./tensors.js";

/** Squared distances of sources from their weighted mean, summed over chunks. */
class DivergenceSum {
  readonly #distance: Float64Array;
  #norm = 0;

  constructor(sources: number) {
    this.#distance = new Float64Array(sources);
  }

  /** @returns whether all values are finite */
  add({ squaredDistances, squaredNorm }: StoredMean): boolean {
    this.#norm += squaredNorm;
    squaredDistances.forEach((squared, i) => {
      this.#distance[i]! += squared;
    });
    return Number.isFinite(this.#norm) && this.#distance.every(Number.isFinite);
  }

  /** ‖θ_i − θ̄‖ / ‖θ̄‖ for each source. */
  get relative(): number[] {
    return Array.from(this.#distance, (sum) => (sum === 0 ? 0 : Math.sqrt(sum / this.#norm)));
  }
}

/** What is shared by the work on one tensor after the other. */
export interface Stream {
  readonly sources: readonly Source[];
  /** Share of each source in the means, summing to 1. */
  readonly weights: readonly number[];
  readonly sink: TensorSink;
  readonly buffers: ChunkBuffers;
}

/**
 * Works through one tensor of every source. Writes may go on while the next chunk is worked on.
 * @returns the sources' distances from their mean @throws MixError
 */
async function overChunks(
  { sources, weights, buffers }: Stream,
  source: string,
  meanDtype: FloatDtype | undefined,
  write: (chunk: Chunk) => Promise<void>,
): Promise<number[]> {
  const divergence = new DivergenceSum(sources.length);
  let writing: Promise<unknown> = Promise.resolve();
  try {
    for await (const chunk of chunksOf(sources, source, { weights, buffers, ...(meanDtype && { meanDtype }) })) {
      if (!divergence.add(chunk.sums)) refuseNonFinite(sources, source, chunk);
      const before = writing;
      writing = Promise.all([before, write(chunk)]);
      // It may fail while nobody waits for it yet.
      writing.catch(() => undefined);
      await before;
    }
  } finally {
    // Nothing may be written after the caller has given up.
    await writing;
  }
  return divergence.relative;
}

/** Writes the weighted mean of `source` over all sources; returns their distances from it. */
export async function writeAverage(stream: Stream, source: string, target: Target): Promise<number[]> {
  const { sources, weights, sink } = stream;
  const { shape } = sources[0]!.folder.info(source);
  const width = shape.slice(1).reduce((a, b) => a * b, 1);
  return await overChunks(stream, source, target.dtype, async ({ firstRow, stored, sums, mean }) => {
    if (sums.overflow) await refuseOverflow(target, stored, weights);
    await sink.write([{ target, first: firstRow * width, bytes: mean!.bytes }]);
  });
}

export interface ExpertWrite {
  readonly arrangement: ExpertArrangement;
  readonly projection: Projection;
  readonly targets: readonly ExpertTarget[];
  readonly dtype: FloatDtype;
  /** Standard deviation of noise added to each value, and its seed. */
  readonly noise?: { readonly standardDeviation: number; readonly seed: number };
}

/**
 * Writes one projection of every expert, from the pieces it is made of: byte for byte where the dtype stays and nothing is
 * scaled. Each source is read once. Returns the sources' distances from their mean.
 */
export async function writeExperts(stream: Stream, source: string, job: ExpertWrite): Promise<number[]> {
  const { arrangement, projection, targets, dtype, noise } = job;
  const width = stream.sources[0]!.folder.info(source).shape[1]!;
  const streams = noise && targets.map((_, e) => new InitialValues(noise.seed * 1024 + e));
  const noisy = (values: Float32Array, expert: number): Float32Array => {
    const random = streams![expert]!.normal([values.length], noise!.standardDeviation);
    return values.map((value, k) => value + random[k]!);
  };
  /** In order: the streams of noise go on from chunk to chunk. */
  const bytesOf = (target: Target, expert: number, { stored, values }: Block): Promise<Uint8Array> | Uint8Array => {
    if (noise) return encode(target, noisy(stored ? valuesOf(stored) : values, expert));
    return stored ? convert(target, stored) : encode(target, values);
  };
  return await overChunks(stream, source, undefined, async (chunk) => {
    const parts = arrangement.experts.flatMap(({ pieces }, e) => {
      const { name, first } = targets[e]!;
      const target = { name, dtype };
      const blocks =
        projection === "down_proj" ? [columns(chunk, pieces, width, arrangement)] : rowBlocks(chunk, pieces, width);
      return blocks.map(async (block) => ({
        target,
        first: first + block.at,
        bytes: await bytesOf(target, e, block),
      }));
    });
    await stream.sink.write(await Promise.all(parts));
  });
}

/** Part of one expert's matrix: `at` is the number of its elements before it. */
type Block = { readonly at: number } & (
  | { /** As it lies in one source. */ readonly stored: StoredWeights; readonly values?: never }
  | { readonly stored?: never; readonly values: Float32Array }
);

/** Rows of a gate or up projection [F, D]: a piece is a run of rows. */
function rowBlocks(chunk: Chunk, pieces: readonly Piece[], width: number): Block[] {
  const { firstRow, rows, stored } = chunk;
  const blocks: Block[] = [];
  let before = 0;
  for (const { source, start, end } of pieces) {
    const [low, high] = [Math.max(start, firstRow), Math.min(end, firstRow + rows)];
    if (low < high) {
      const { dtype, bytes } = stored[source]!;
      const rowBytes = bytes.byteLength / rows;
      blocks.push({
        at: (before + low - start) * width,
        stored: { dtype, bytes: bytes.subarray((low - firstRow) * rowBytes, (high - firstRow) * rowBytes) },
      });
    }
    before += end - start;
  }
  return blocks;
}

/** Rows of a down projection [D, F]: a piece is a run of columns. */
function columns(
  { firstRow, rows, stored }: Chunk,
  pieces: readonly Piece[],
  width: number,
  { intermediateSize, downScale }: ExpertArrangement,
): Block {
  const at = firstRow * intermediateSize;
  const only = pieces[0]!;
  if (pieces.length === 1 && only.end - only.start === width && downScale === 1)
    return { at, stored: stored[only.source]! };
  const floats = new Map(pieces.map(({ source }) => [source, valuesOf(stored[source]!)]));
  const block = new Float32Array(rows * intermediateSize);
  for (let row = 0; row < rows; row++) {
    let to = row * intermediateSize;
    for (const { source, start, end } of pieces) {
      block.set(floats.get(source)!.subarray(row * width + start, row * width + end), to);
      to += end - start;
    }
  }
  if (downScale !== 1) for (let k = 0; k < block.length; k++) block[k]! *= downScale;
  return { at, values: block };
}
