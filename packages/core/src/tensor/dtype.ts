import { dtypeCodes } from "@trefoil/native";

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

export function dtypeOf(data: HostArray): Dtype {
  if (data instanceof Float32Array) return "f32";
  if (data instanceof Int32Array) return "i32";
  return "bf16";
}
