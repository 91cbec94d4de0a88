import { dtypeCodes } from "@trefoil/native";
import { formatBytes, OutOfMemoryError, requireHostMemory } from "../device/host-memory.js";
import { DtypeError, InvalidUseError } from "./errors.js";

/** `f32` and `i32` compute; `bf16` is storage only (weights, caches): kernels widen it to f32. */
export type Dtype = "f32" | "i32" | "bf16";

/** Host arrays that hold each dtype. bf16 travels as raw 16-bit words. */
export type HostArray = Float32Array | Int32Array | Uint16Array;

export const dtypeBytes: Record<Dtype, number> = { f32: 4, i32: 4, bf16: 2 };

/** For callers without types. @throws DtypeError */
export function checkDtype(op: string, dtype: Dtype): void {
  if (!Object.hasOwn(dtypeBytes, dtype)) throw new DtypeError(op, 'a dtype is "f32", "i32" or "bf16"', [String(dtype)]);
}

export const dtypeCode = (dtype: Dtype): number => dtypeCodes[dtype];

interface HostArrays {
  f32: Float32Array;
  i32: Int32Array;
  bf16: Uint16Array;
}
const makeArray = {
  f32: (count: number) => new Float32Array(count),
  i32: (count: number) => new Int32Array(count),
  bf16: (count: number) => new Uint16Array(count),
};

/**
 * Zeros.
 * @param what of the error: "an array of 5 values"
 * @throws OutOfMemoryError
 */
export function allocateHost<D extends Dtype>(dtype: D, count: number, what?: string, advice?: string): HostArrays[D];
export function allocateHost(
  dtype: Dtype,
  count: number,
  what = `an array of ${count} values`,
  advice = "compute a smaller one",
): HostArray {
  const bytes = count * dtypeBytes[dtype];
  requireHostMemory(bytes, what, advice);
  try {
    return makeArray[dtype](count);
  } catch (cause) {
    const message = `${what} takes ${formatBytes(bytes)}, which Node cannot hold in one array: ${advice}`;
    throw new OutOfMemoryError(message, { cause });
  }
}

const dtypeOfArray: Readonly<Record<string, Dtype>> = { Float32Array: "f32", Int32Array: "i32", Uint16Array: "bf16" };

export function dtypeOf(data: HostArray): Dtype {
  // By name: an array of another realm is no instance of this one's classes.
  const dtype = dtypeOfArray[data[Symbol.toStringTag]];
  if (dtype) return dtype;
  throw new InvalidUseError(
    `values must be in a Float32Array, an Int32Array or, as words of bf16, a Uint16Array; this is a ${data[Symbol.toStringTag]}`,
  );
}

const word = new Float32Array(1);
const wordBits = new Uint32Array(word.buffer);

/** The number that an element stands for. */
export function numberAt(data: HostArray, at: number, dtype: Dtype): number {
  if (dtype !== "bf16") return data[at]!;
  wordBits[0] = data[at]! << 16;
  return word[0]!;
}
