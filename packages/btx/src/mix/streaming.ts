import { crc32 } from "node:zlib";
import { decodeFloats, dtypeBytes, encodeFloats, type ModelFolderWriter } from "@trefoil/core";
import type { Source } from "./compatibility.js";
import { MixError } from "./errors.js";

export type FloatDtype = "F32" | "F16" | "BF16";

/** Elements held of each source at a time: all buffers together stay a few times this, whatever the tensors' sizes. */
const chunkElements = 1 << 20;

/** How far each source lies from the mean, over all chunks of one tensor. */
export interface Divergence {
  /** ‖θ_i − θ̄‖ / ‖θ̄‖ for each source. */
  readonly relative: readonly number[];
}

/** What was written under a name, to be compared with what is read back. */
export interface Written {
  readonly bytes: number;
  readonly crc: number;
}

/** Writes the chunks of one output tensor and keeps their checksum. */
class TensorSink {
  #bytes = 0;
  #crc = 0;

  constructor(
    readonly writer: ModelFolderWriter,
    readonly name: string,
  ) {}

  async write(chunk: Uint8Array): Promise<void> {
    this.#crc = crc32(chunk, this.#crc);
    this.#bytes += chunk.byteLength;
    await this.writer.write(this.name, chunk);
  }

  get written(): Written {
    return { bytes: this.#bytes, crc: this.#crc };
  }
}

/** One tensor of every source, chunk by chunk: `size` elements from `start`. */
async function* chunksOf(
  sources: readonly Source[],
  name: string,
): AsyncGenerator<{ stored: Uint8Array[]; values: Float32Array[]; size: number }> {
  const infos = sources.map(({ folder }) => folder.info(name));
  const elements = infos[0]!.bytes / dtypeBytes[infos[0]!.dtype];
  const buffers = infos.map(({ dtype }) => new Uint8Array(Math.min(chunkElements, elements) * dtypeBytes[dtype]));
  for (let start = 0; start < elements; start += chunkElements) {
    const size = Math.min(chunkElements, elements - start);
    const stored: Uint8Array[] = [];
    const values: Float32Array[] = [];
    for (const [i, { folder, path }] of sources.entries()) {
      const { dtype, shape } = infos[i]!;
      const width = dtypeBytes[dtype];
      const bytes = await folder.readRange(name, start * width, buffers[i]!.subarray(0, size * width));
      const floats = decodeFloats(dtype as FloatDtype, bytes);
      refuseNonFinite(floats, start, shape, name, path);
      stored.push(bytes);
      values.push(floats);
    }
    yield { stored, values, size };
  }
}

function refuseNonFinite(
  values: Float32Array,
  start: number,
  shape: readonly number[],
  name: string,
  path: string,
): void {
  const bits = new Uint32Array(values.buffer, values.byteOffset, values.length);
  for (let i = 0; i < bits.length; i++) {
    if ((bits[i]! & 0x7f800000) !== 0x7f800000) continue;
    const position: number[] = [];
    let rest = start + i;
    for (const extent of shape.toReversed()) {
      position.unshift(rest % extent);
      rest = Math.floor(rest / extent);
    }
    throw new MixError(
      "MIX_NOT_FINITE",
      `${name} of ${path} is ${values[i]} at [${position.join(", ")}]: the checkpoint is damaged or diverged`,
      {
        folder: path,
        tensor: name,
        position,
      },
    );
  }
}

/** Squared distances of sources from their weighted mean, summed over chunks. */
class DivergenceSum {
  readonly #distance: Float64Array;
  #norm = 0;

  constructor(sources: number) {
    this.#distance = new Float64Array(sources);
  }

  add(values: readonly Float32Array[], mean: Float64Array): void {
    for (let i = 0; i < values.length; i++) {
      const source = values[i]!;
      let sum = 0;
      for (let k = 0; k < source.length; k++) sum += (source[k]! - mean[k]!) ** 2;
      this.#distance[i]! += sum;
    }
    for (let k = 0; k < values[0]!.length; k++) this.#norm += mean[k]! ** 2;
  }

  get result(): Divergence {
    return { relative: Array.from(this.#distance, (sum) => (sum === 0 ? 0 : Math.sqrt(sum / this.#norm))) };
  }
}

/** Weighted mean in double precision, so that equal sources give exactly themselves. */
function meanOf(values: readonly Float32Array[], weights: readonly number[], mean: Float64Array): void {
  const [first, ...others] = values as [Float32Array, ...Float32Array[]];
  for (let k = 0; k < first.length; k++) mean[k] = first[k]!;
  // The first source plus weighted differences: with equal sources nothing is rounded.
  others.forEach((source, i) => {
    const weight = weights[i + 1]!;
    for (let k = 0; k < source.length; k++) mean[k]! += weight * (source[k]! - first[k]!);
  });
}

/** Stores floats as `dtype`; a value that F16 cannot hold is refused, not turned into infinity. */
function encode(dtype: FloatDtype, values: Float32Array, name: string): Uint8Array {
  if (dtype === "F16") {
    const large = values.find((value) => Math.abs(value) >= 65520);
    if (large !== undefined) {
      throw new MixError("MIX_NOT_FINITE", `${name} holds ${large}, which F16 cannot: write BF16 or F32`, {
        tensor: name,
        dtype,
      });
    }
  }
  return encodeFloats(dtype, values);
}

/** Writes the weighted mean of `source` over all sources. @param weights summing to 1 */
export async function writeAverage(
  sources: readonly Source[],
  source: string,
  weights: readonly number[],
  target: { writer: ModelFolderWriter; name: string; dtype: FloatDtype },
): Promise<{ divergence: Divergence; written: Written }> {
  const sink = new TensorSink(target.writer, target.name);
  const divergence = new DivergenceSum(sources.length);
  let mean = new Float64Array(0);
  for await (const { values, size } of chunksOf(sources, source)) {
    if (mean.length < size) mean = new Float64Array(size);
    meanOf(values, weights, mean);
    divergence.add(values, mean);
    await sink.write(encode(target.dtype, Float32Array.from(mean.subarray(0, size)), target.name));
  }
  return { divergence: divergence.result, written: sink.written };
}

/** Copies `source` of each source to its own name: byte for byte where the dtype stays. */
export async function writeExperts(
  sources: readonly Source[],
  source: string,
  weights: readonly number[],
  target: { writer: ModelFolderWriter; names: readonly string[]; dtype: FloatDtype },
): Promise<{ divergence: Divergence; written: Written[] }> {
  const sinks = target.names.map((name) => new TensorSink(target.writer, name));
  const divergence = new DivergenceSum(sources.length);
  let mean = new Float64Array(0);
  for await (const { stored, values, size } of chunksOf(sources, source)) {
    if (mean.length < size) mean = new Float64Array(size);
    meanOf(values, weights, mean);
    divergence.add(values, mean);
    for (const [i, sink] of sinks.entries()) {
      const same = sources[i]!.folder.info(source).dtype === target.dtype;
      await sink.write(same ? stored[i]! : encode(target.dtype, values[i]!, target.names[i]!));
    }
  }
  return { divergence: divergence.result, written: sinks.map(({ written }) => written) };
}

/** Writes a small tensor that is in memory. */
export async function writeValues(
  values: Float32Array,
  target: { writer: ModelFolderWriter; name: string; dtype: FloatDtype },
): Promise<Written> {
  const sink = new TensorSink(target.writer, target.name);
  await sink.write(encode(target.dtype, values, target.name));
  return sink.written;
}
