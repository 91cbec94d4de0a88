import {
  checksum,
  dtypeBytes,
  encodeFloats,
  ModelFolder,
  type ModelFolderWriter,
  meanOfStored,
  type StoredMean,
  type StoredWeights,
} from "@trefoil/core";
import { type FloatDtype, valuesOf } from "./chunks.js";
import { MixError } from "./errors.js";

/** A run of bytes that was written, to be compared with what is read back. */
interface Run {
  readonly name: string;
  readonly offset: number;
  readonly bytes: number;
  readonly sum: number;
}

/** A tensor of the result. */
export interface Target {
  readonly name: string;
  readonly dtype: FloatDtype;
}

/** Readers at work at a time when the result is read back. */
const verifiers = 4;

/** Writes pieces of tensors, several at a time, and keeps their checksums. */
export class TensorSink {
  readonly #runs: Run[] = [];
  #bytes = 0;

  constructor(
    readonly writer: ModelFolderWriter,
    readonly onProgress: (bytes: number) => void = () => undefined,
  ) {}

  /** @param first elements of the tensor before `bytes`, which are of its dtype */
  async write({ name, dtype }: Target, first: number, bytes: Uint8Array): Promise<void> {
    const offset = first * dtypeBytes[dtype];
    const [sum] = await Promise.all([checksum(bytes), this.writer.writeAt(name, offset, bytes)]);
    this.#runs.push({ name, offset, bytes: bytes.byteLength, sum });
    this.#bytes += bytes.byteLength;
    this.onProgress(this.#bytes);
  }

  /** Reads everything back before the folder gets its name. @throws MixError */
  async verify(path: string): Promise<void> {
    const folder = await ModelFolder.open(path);
    try {
      const runs = this.#runs.values();
      const largest = Math.max(0, ...this.#runs.map(({ bytes }) => bytes));
      const check = async () => {
        const buffer = new Uint8Array(largest);
        for (const { name, offset, bytes, sum } of runs) {
          if ((await checksum(await folder.readRange(name, offset, buffer.subarray(0, bytes)))) === sum) continue;
          throw new MixError(
            "MIX_VERIFICATION",
            `${name} does not read back as it was written: the disk may be failing; nothing was kept`,
            { tensor: name },
          );
        }
      };
      await Promise.all(Array.from({ length: verifiers }, check));
    } finally {
      await folder.close();
    }
  }
}

/** Floats as a tensor stores them. @throws MixError naming a value that F16 cannot hold: it would become infinite */
export function encode(target: Target, values: Float32Array): Uint8Array {
  if (target.dtype === "F16") refuseLarge(target, values);
  return encodeFloats(target.dtype, values);
}

/** Stored weights of one dtype in that of a tensor: what both hold is not copied. @throws MixError as `encode` */
export async function convert(target: Target, stored: StoredWeights): Promise<Uint8Array> {
  return stored.dtype === target.dtype ? stored.bytes : (await meanAs(target, [stored], [1])).bytes;
}

/** The weighted mean of stored weights, as a tensor stores it. @throws MixError as `encode` */
export async function meanAs(
  target: Target,
  stored: readonly StoredWeights[],
  weights: readonly number[],
): Promise<{ bytes: Uint8Array; sums: StoredMean }> {
  const elements = stored[0]!.bytes.byteLength / dtypeBytes[stored[0]!.dtype];
  const into = (dtype: FloatDtype) => ({ dtype, bytes: new Uint8Array(elements * dtypeBytes[dtype]) });
  const { dtype, bytes } = into(target.dtype);
  const sums = await meanOfStored(stored, weights, { dtype, bytes });
  if (sums.overflow) {
    const exact = into("F32");
    await meanOfStored(stored, weights, exact);
    refuseLarge(target, valuesOf(exact));
  }
  return { bytes, sums };
}

function refuseLarge({ name, dtype }: Target, values: Float32Array): void {
  const large = values.find((value) => Math.abs(value) >= 65520);
  if (large === undefined) return;
  throw new MixError("MIX_NOT_FINITE", `${name} holds ${large}, which F16 cannot: write BF16 or F32`, {
    tensor: name,
    dtype,
  });
}
