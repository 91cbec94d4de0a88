import type { StageContext } from "@trefoil/core";
import { imageBatch } from "../images/pixels.js";
import type { ImageTokenizer, PairedDataset, PairedSample } from "../types.js";

/** Pictures that are encoded at a time. */
const rows = 64;

/**
 * Encodes all pictures of a dataset, once.
 * @param take gets every sample, in order
 * @returns codes `[pictures, L]`
 */
export async function encodeDataset(
  data: PairedDataset,
  images: ImageTokenizer,
  take: (sample: PairedSample) => void,
  { progress, signal }: StageContext = {},
): Promise<Int32Array> {
  const positions = images.gridSize ** 2;
  const codes = new Int32Array(data.length * positions);
  const stage = progress?.stage("encode", { total: data.length, unit: "pictures" });
  for (let at = 0; at < data.length; at += rows) {
    signal?.throwIfAborted();
    const indices = Array.from({ length: Math.min(rows, data.length - at) }, (_, i) => at + i);
    codes.set(await images.encode(await imageBatch(data, indices), indices.length), at * positions);
    for (const index of indices) take(await data.get(index));
    stage?.update(at + indices.length);
  }
  stage?.succeed();
  return codes;
}
