import { crc32 } from "node:zlib";
import { dtypeBytes, encodeFloats, ModelFolder, type ModelFolderWriter } from "@trefoil/core";
import type { FloatDtype } from "./chunks.js";
import { MixError } from "./errors.js";

/** A run of bytes that was written, to be compared with what is read back. */
interface Run {
  readonly name: string;
  readonly offset: number;
  readonly bytes: number;
  readonly crc: number;
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

  /** @param first elements of the tensor before `values` @param stored the same values as bytes of `dtype`, where there are */
  async write(
    target: { name: string; dtype: FloatDtype },
    first: number,
    values: Float32Array,
    stored?: Uint8Array,
  ): Promise<void> {
    const bytes = stored ?? encode(target.dtype, values, target.name);
    const offset = first * dtypeBytes[target.dtype];
    this.#runs.push({ name: target.name, offset, bytes: bytes.byteLength, crc: crc32(bytes) });
    await this.writer.writeAt(target.name, offset, bytes);
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
        for (const { name, offset, bytes, crc } of runs) {
          if (crc32(await folder.readRange(name, offset, buffer.subarray(0, bytes))) === crc) continue;
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
