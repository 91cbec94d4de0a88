import { InitialValues } from "@trefoil/core";
import type { ExpertArrangement, Piece } from "./arrangement.js";
import { type Chunk, chunksOf, type FloatDtype, refuseNonFinite } from "./chunks.js";
import type { Source } from "./compatibility.js";
import type { TensorSink } from "./sink.js";
import type { ExpertTarget, Projection } from "./tensors.js";

/** Squared distances of sources from their weighted mean, summed over chunks. */
class DivergenceSum {
  readonly #distance: Float64Array;
  #norm = 0;

  constructor(sources: number) {
    this.#distance = new Float64Array(sources);
  }

  /** @returns whether all values are finite: if one is not, neither is a sum */
  add(values: readonly Float32Array[], mean: Float64Array): boolean {
    let total = 0;
    for (let i = 0; i < values.length; i++) {
      const sum = squaredDistance(values[i]!, mean);
      this.#distance[i]! += sum;
      total += sum;
    }
    this.#norm += squaredNorm(mean, values[0]!.length);
    return Number.isFinite(total + this.#norm);
  }

  /** ‖θ_i − θ̄‖ / ‖θ̄‖ for each source. */
  get relative(): number[] {
    return Array.from(this.#distance, (sum) => (sum === 0 ? 0 : Math.sqrt(sum / this.#norm)));
  }
}

function squaredDistance(source: Float32Array, mean: Float64Array): number {
  let sum = 0;
  for (let k = 0; k < source.length; k++) sum += (source[k]! - mean[k]!) ** 2;
  return sum;
}

function squaredNorm(values: Float64Array, length: number): number {
  let sum = 0;
  for (let k = 0; k < length; k++) sum += values[k]! ** 2;
  return sum;
}

/** Weighted mean in double precision; the first source plus weighted differences, so that equal sources give exactly themselves. */
function meanOf(values: readonly Float32Array[], weights: readonly number[], mean: Float64Array): void {
  const [first, ...others] = values as [Float32Array, ...Float32Array[]];
  for (let k = 0; k < first.length; k++) mean[k] = first[k]!;
  others.forEach((source, i) => {
    addDifference(source, first, weights[i + 1]!, mean);
  });
}

function addDifference(source: Float32Array, first: Float32Array, weight: number, mean: Float64Array): void {
  for (let k = 0; k < source.length; k++) mean[k]! += weight * (source[k]! - first[k]!);
}

/** Calls `write` for each chunk with the mean of the sources; the writes of one chunk go on while the next is worked on. */
async function overChunks(
  sources: readonly Source[],
  source: string,
  weights: readonly number[],
  write: (chunk: Chunk, mean: Float64Array) => Promise<void>[],
): Promise<number[]> {
  const divergence = new DivergenceSum(sources.length);
  let mean = new Float64Array(0);
  let writing: Promise<unknown> = Promise.resolve();
  try {
    for await (const chunk of chunksOf(sources, source)) {
      if (mean.length === 0) mean = new Float64Array(chunk.values[0]!.length);
      meanOf(chunk.values, weights, mean);
      if (!divergence.add(chunk.values, mean)) refuseNonFinite(sources, source, chunk);
      await writing;
      writing = Promise.all(write(chunk, mean));
      writing.catch(() => undefined);
    }
  } finally {
    // Nothing may be written after the caller has given up.
    await writing;
  }
  return divergence.relative;
}

/** Writes the weighted mean of `source` over all sources; returns their distances. @param weights summing to 1 */
export async function writeAverage(
  sources: readonly Source[],
  source: string,
  weights: readonly number[],
  target: { name: string; dtype: FloatDtype },
  sink: TensorSink,
): Promise<number[]> {
  const single = sources.length === 1 && sources[0]!.folder.info(source).dtype === target.dtype;
  return await overChunks(sources, source, weights, ({ firstRow, rows, values, stored }, mean) => {
    const size = values[0]!.length;
    const first = firstRow * (size / rows);
    return [
      single
        ? sink.write(target, first, values[0]!, stored[0])
        : sink.write(target, first, Float32Array.from(mean.subarray(0, size))),
    ];
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
export async function writeExperts(
  sources: readonly Source[],
  source: string,
  weights: readonly number[],
  job: ExpertWrite,
  sink: TensorSink,
): Promise<number[]> {
  const { arrangement, projection, targets, dtype, noise } = job;
  const width = sources[0]!.folder.info(source).shape[1]!;
  const same = sources.map(({ folder }) => folder.info(source).dtype === dtype);
  const streams = noise && targets.map((_, e) => new InitialValues(noise.seed * 1024 + e));
  const noisy = (values: Float32Array, expert: number): Float32Array => {
    const random = streams![expert]!.normal([values.length], noise!.standardDeviation);
    return values.map((value, k) => value + random[k]!);
  };
  return await overChunks(sources, source, weights, (chunk) =>
    arrangement.experts.flatMap(({ pieces }, e) => {
      const { name, first } = targets[e]!;
      const blocks =
        projection === "down_proj"
          ? [columns(chunk, pieces, width, arrangement)]
          : rowBlocks(chunk, pieces, width, same);
      return blocks.map(({ at, values, from }) => {
        const stored = from && !noise && same[from.source] ? from.stored : undefined;
        return sink.write({ name, dtype }, first + at, noise ? noisy(values, e) : values, stored);
      });
    }),
  );
}

/** Values of one expert's matrix: `at` is the number of its elements before them. */
interface Block {
  readonly at: number;
  readonly values: Float32Array;
  /** The same as they are stored in one source. */
  readonly from?: { readonly source: number; readonly stored: Uint8Array };
}

/** Rows of a gate or up projection [F, D]: a piece is a run of rows. */
function rowBlocks(chunk: Chunk, pieces: readonly Piece[], width: number, same: readonly boolean[]): Block[] {
  const { firstRow, rows, values, stored } = chunk;
  const blocks: Block[] = [];
  let before = 0;
  for (const { source, start, end } of pieces) {
    const [low, high] = [Math.max(start, firstRow), Math.min(end, firstRow + rows)];
    if (low < high) {
      const [from, to] = [(low - firstRow) * width, (high - firstRow) * width];
      const bytes = stored[source]!.byteLength / (rows * width);
      blocks.push({
        at: (before + low - start) * width,
        values: values[source]!.subarray(from, to),
        ...(same[source] && { from: { source, stored: stored[source]!.subarray(from * bytes, to * bytes) } }),
      });
    }
    before += end - start;
  }
  return blocks;
}

/** Rows of a down projection [D, F]: a piece is a run of columns. */
function columns(
  { firstRow, rows, values, stored }: Chunk,
  pieces: readonly Piece[],
  width: number,
  { intermediateSize, downScale }: ExpertArrangement,
): Block {
  const at = firstRow * intermediateSize;
  const only = pieces[0]!;
  if (pieces.length === 1 && only.end - only.start === width && downScale === 1)
    return { at, values: values[only.source]!, from: { source: only.source, stored: stored[only.source]! } };
  const block = new Float32Array(rows * intermediateSize);
  for (let row = 0; row < rows; row++) {
    let to = row * intermediateSize;
    for (const { source, start, end } of pieces) {
      block.set(values[source]!.subarray(row * width + start, row * width + end), to);
      to += end - start;
    }
  }
  if (downScale !== 1) for (let k = 0; k < block.length; k++) block[k]! *= downScale;
  return { at, values: block };
}
