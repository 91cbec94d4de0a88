import type { PairedDataset, RgbImage } from "../types.js";

/** 8-bit values to [-1, 1], as the image tokenizer takes them. */
export function toUnit(pixels: Uint8Array, into = new Float32Array(pixels.length), at = 0): Float32Array {
  for (let i = 0; i < pixels.length; i++) into[at + i] = pixels[i]! / 127.5 - 1;
  return into;
}

/** Values in [-1, 1] (beyond: clipped) to 8 bits. */
export function toBytes(values: Float32Array): Uint8Array {
  const bytes = new Uint8Array(values.length);
  for (let i = 0; i < values.length; i++) {
    bytes[i] = Math.max(0, Math.min(255, Math.round((values[i]! + 1) * 127.5)));
  }
  return bytes;
}

/** The images at `indices` as one batch `[N, size, size, 3]` in [-1, 1]. */
export async function imageBatch(dataset: PairedDataset, indices: readonly number[]): Promise<Float32Array> {
  const floats = dataset.size * dataset.size * 3;
  const batch = new Float32Array(indices.length * floats);
  const samples = await Promise.all(indices.map((index) => dataset.get(index)));
  for (const [row, { image }] of samples.entries()) toUnit(image, batch, row * floats);
  return batch;
}

/** Pictures `[N, size, size, 3]` that follow one another, each a view. */
export function picturesOf(bytes: Uint8Array, size: number): RgbImage[] {
  const each = size * size * 3;
  return Array.from({ length: bytes.length / each }, (_, i) => ({
    width: size,
    height: size,
    pixels: bytes.subarray(i * each, (i + 1) * each),
  }));
}
