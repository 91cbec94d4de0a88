import {
  dtypeBytes,
  encodeFloats,
  ModelFolder,
  type ModelFolderWriter,
  meanOfStored,
  type StoredWeights,
  storedChecksums,
  writeStored,
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

/** Part of a tensor of the result. */
export interface TensorPart {
  readonly target: Target;
  /** Elements of the tensor before it. */
  readonly first: number;
  /** Of the target's dtype. */
  readonly bytes: Uint8Array;
}

/** Readers at work at a time when the result is read back, and the runs that each takes at once. */
const [verifiers, runsAtOnce] = [2, 16];

/** Writes parts of tensors, several at a time, and keeps their checksums. */
export class TensorSink {
  readonly #runs: Run[] = [];
  #bytes = 0;

  constructor(
    readonly writer: ModelFolderWriter,
    readonly onProgress: (bytes: number) => void = () => undefined,
  ) {}

  async write(parts: readonly TensorPart[]): Promise<void> {
    const runs = parts.map(({ target: { name, dtype }, first, bytes }) => {
      const offset = first * dtypeBytes[dtype];
      return { name, offset, bytes, to: this.writer.placeFor(name, offset, bytes.byteLength) };
    });
    const sums = await writeStored(runs);
    for (const [
      i,
      {
        name,
        offset,
        bytes: { byteLength: bytes },
      },
    ] of runs.entries()) {
      this.#runs.push({ name, offset, bytes, sum: sums[i]! });
      this.#bytes += bytes;
      this.onProgress(this.#bytes);
    }
  }

  /** Reads everything back before the folder gets its name. @throws MixError */
  async verify(path: string): Promise<void> {
    const folder = await ModelFolder.open(path);
    try {
      let next = 0;
      const check = async () => {
        while (next < this.#runs.length) {
          const runs = this.#runs.slice(next, next + runsAtOnce);
          next += runsAtOnce;
          const places = runs.map(({ name, offset, bytes }) => ({ bytes, from: folder.placeOf(name, offset, bytes) }));
          const sums = await storedChecksums(places);
          const wrong = runs.find(({ sum }, i) => sum !== sums[i]);
          if (!wrong) continue;
          throw new MixError(
            "MIX_VERIFICATION",
            `${wrong.name} does not read back as it was written: the disk may be failing; nothing was kept`,
            { tensor: wrong.name },
          );
        }
      };
      const outcomes = await Promise.allSettled(Array.from({ length: verifiers }, check));
      for (const outcome of outcomes) if (outcome.status === "rejected") throw outcome.reason;
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
  if (stored.dtype === target.dtype) return stored.bytes;
  const bytes = new Uint8Array((stored.bytes.byteLength / dtypeBytes[stored.dtype]) * dtypeBytes[target.dtype]);
  const { overflow } = await meanOfStored([stored], [1], { dtype: target.dtype, bytes });
  if (overflow) await refuseOverflow(target, [stored], [1]);
  return bytes;
}

/** @throws MixError naming the value of a mean that was too large for its target's dtype */
export async function refuseOverflow(
  target: Target,
  stored: readonly StoredWeights[],
  weights: readonly number[],
): Promise<void> {
  const elements = stored[0]!.bytes.byteLength / dtypeBytes[stored[0]!.dtype];
  const exact = { dtype: "F32", bytes: new Uint8Array(4 * elements) } as const;
  await meanOfStored(stored, weights, exact);
  refuseLarge(target, valuesOf(exact));
}

function refuseLarge({ name, dtype }: Target, values: Float32Array): void {
  const large = values.find((value) => Math.abs(value) >= 65520);
  if (large === undefined) return;
  throw new MixError("MIX_NOT_FINITE", `${name} holds ${large}, which F16 cannot: write BF16 or F32`, {
    tensor: name,
    dtype,
  });
}
