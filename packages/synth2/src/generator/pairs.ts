import type { StageContext, Tokenizer } from "@trefoil/core";
import { imageBatch } from "../images/pixels.js";
import type { VqImageTokenizer } from "../tokenizer/index.js";
import type { PairedDataset } from "../types.js";
import { encodeCaption } from "./text.js";
import type { CodedPairs } from "./train.js";

/** Pictures that are encoded at a time. */
const rows = 64;

/** All captions of a dataset. */
export async function captionsOf(data: PairedDataset): Promise<string[]> {
  const captions: string[] = [];
  for (let i = 0; i < data.length; i++) captions.push(...(await data.get(i)).captions);
  return captions;
}

/** Encodes a dataset once: its pictures as codes, its captions as tokens. @throws SynthError `SYNTH_DATA` for a caption that is too long */
export async function encodePairs(
  data: PairedDataset,
  images: VqImageTokenizer,
  text: Tokenizer,
  maxTextTokens: number,
  { progress, signal }: StageContext = {},
): Promise<CodedPairs> {
  const codes = new Int32Array(data.length * images.positions);
  const captions: Int32Array[][] = [];
  const stage = progress?.stage("encode", { total: data.length, unit: "pictures" });
  for (let at = 0; at < data.length; at += rows) {
    signal?.throwIfAborted();
    const indices = Array.from({ length: Math.min(rows, data.length - at) }, (_, i) => at + i);
    codes.set(await images.encode(await imageBatch(data, indices), indices.length), at * images.positions);
    for (const index of indices) {
      const sample = await data.get(index);
      captions.push(sample.captions.map((caption) => encodeCaption(caption, text, maxTextTokens)));
    }
    stage?.update(at + indices.length);
  }
  stage?.succeed();
  return { codes, captions };
}
