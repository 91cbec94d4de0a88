import { dtypeCodes } from "@trefoil/native";
import { InvalidUseError } from "./errors.js";

/** `f32` and `i32` compute; `bf16` is storage only (weights, caches): kernels widen it to f32. */
export type Dtype = "f32" | "i32" | "bf16";

/** Host arrays that hold each dtype. bf16 travels as raw 16-bit words. */
export type HostArray = Float32Array | Int32Array | Uint16Array;

export const dtypeBytes: Record<Dtype, number> = { f32: 4, i32: 4, bf16: 2 };

export const dtypeCode = (dtype: Dtype): number => dtypeCodes[dtype];

export function allocateHost(dtype: Dtype, count: number): HostArray {
  if (dtype === "f32") return new Float32Array(count);
  if (dtype === "i32") return new Int32Array(count);
  return new Uint16Array(count);
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
