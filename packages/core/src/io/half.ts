/**
 * float16 and bfloat16 as raw 16-bit patterns, to and from float32. Narrowing rounds to nearest, ties to even; values too
 * large become infinite; NaN stays NaN (quiet, payload dropped), like PyTorch's casts.
 */

const scratchFloat = new Float32Array(1);
const scratchBits = new Uint32Array(scratchFloat.buffer);

/** Bit patterns of a float32 array: a view, no copy. */
function bitsOf(values: Float32Array): Uint32Array {
  return new Uint32Array(values.buffer, values.byteOffset, values.length);
}

/** @param target of the same length as `source`; made when absent. */
export function bf16ToF32(source: Uint16Array, target = new Float32Array(source.length)): Float32Array {
  const bits = bitsOf(target);
  for (let i = 0; i < source.length; i++) bits[i] = (source[i] as number) << 16;
  return target;
}

/** @param target of the same length as `source`; made when absent. */
export function f32ToBf16(source: Float32Array, target = new Uint16Array(source.length)): Uint16Array {
  const bits = bitsOf(source);
  for (let i = 0; i < bits.length; i++) {
    const u = bits[i] as number;
    // `>>> 0` because a large magnitude with the sign set carries into bit 31.
    target[i] = (u & 0x7fffffff) > 0x7f800000 ? 0x7fc0 : ((u + 0x7fff + ((u >>> 16) & 1)) >>> 0) >>> 16;
  }
  return target;
}

let f16Table: Float32Array | undefined;

/** Every float16 value as float32, by bit pattern: 256 KiB, made on first use. */
function f16Values(): Float32Array {
  if (f16Table) return f16Table;
  const table = new Float32Array(65536);
  const bits = bitsOf(table);
  for (let h = 0; h < 65536; h++) {
    const sign = (h & 0x8000) << 16;
    const exponent = (h >>> 10) & 0x1f;
    const fraction = h & 0x3ff;
    if (exponent === 0) table[h] = (sign ? -1 : 1) * fraction * 2 ** -24;
    else if (exponent === 31) bits[h] = sign | 0x7f800000 | (fraction << 13);
    else bits[h] = sign | ((exponent + 112) << 23) | (fraction << 13);
  }
  f16Table = table;
  return table;
}

/** @param target of the same length as `source`; made when absent. */
export function f16ToF32(source: Uint16Array, target = new Float32Array(source.length)): Float32Array {
  // Copies bits, not numbers: a NaN would lose its payload on the way through a double.
  const table = bitsOf(f16Values());
  const bits = bitsOf(target);
  for (let i = 0; i < source.length; i++) bits[i] = table[source[i] as number] as number;
  return target;
}

/** @param target of the same length as `source`; made when absent. */
export function f32ToF16(source: Float32Array, target = new Uint16Array(source.length)): Uint16Array {
  const bits = bitsOf(source);
  for (let i = 0; i < bits.length; i++) {
    const u = bits[i] as number;
    const sign = (u >>> 16) & 0x8000;
    const magnitude = u & 0x7fffffff;
    if (magnitude >= 0x47800000) {
      // 2^16 and above, infinities and NaN
      target[i] = magnitude > 0x7f800000 ? 0x7e00 : sign | 0x7c00;
    } else if (magnitude < 0x38800000) {
      // Below 2^-14 the result is subnormal with unit 2^-24, the spacing of float32 at 0.5: adding 0.5 rounds for us.
      scratchBits[0] = magnitude;
      scratchFloat[0] = (scratchFloat[0] as number) + 0.5;
      target[i] = sign | ((scratchBits[0] as number) - 0x3f000000);
    } else {
      // Rebias the exponent by 15 - 127 and round away 13 fraction bits; a carry into the exponent is right.
      target[i] = sign | ((magnitude - 0x38000000 + 0xfff + ((magnitude >>> 13) & 1)) >>> 13);
    }
  }
  return target;
}

/**
 * Reads stored floating-point elements as float32.
 * @param bytes little-endian elements of `dtype`; aligned or not.
 */
export function decodeFloats(dtype: "F64" | "F32" | "F16" | "BF16", bytes: Uint8Array): Float32Array {
  const width = dtype === "F64" ? 8 : dtype === "F32" ? 4 : 2;
  const aligned = bytes.byteOffset % width === 0 ? bytes : bytes.slice();
  const length = bytes.byteLength / width;
  switch (dtype) {
    case "F64":
      return Float32Array.from(new Float64Array(aligned.buffer, aligned.byteOffset, length));
    case "F32":
      return new Float32Array(aligned.buffer, aligned.byteOffset, length);
    case "F16":
      return f16ToF32(new Uint16Array(aligned.buffer, aligned.byteOffset, length));
    case "BF16":
      return bf16ToF32(new Uint16Array(aligned.buffer, aligned.byteOffset, length));
  }
}

/** Stores float32 values as little-endian elements of `dtype`. F32 is a view of `values`, not a copy. */
export function encodeFloats(dtype: "F64" | "F32" | "F16" | "BF16", values: Float32Array): Uint8Array {
  const stored =
    dtype === "F64"
      ? Float64Array.from(values)
      : dtype === "F32"
        ? values
        : dtype === "F16"
          ? f32ToF16(values)
          : f32ToBf16(values);
  return new Uint8Array(stored.buffer, stored.byteOffset, stored.byteLength);
}
