import type { StageContext, Tokenizer } from "@trefoil/core";
import { encodeDataset, type VqImageTokenizer } from "../tokenizer/index.js";
import type { PairedDataset, PairedSample } from "../types.js";
import { encodeCaption } from "./text.js";
import type { CodedPairs } from "./train.js";

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
  context: StageContext = {},
): Promise<CodedPairs> {
  const captions: Int32Array[][] = [];
  const take = (sample: PairedSample) => {
    captions.push(sample.captions.map((caption) => encodeCaption(caption, text, maxTextTokens)));
  };
  return { codes: await encodeDataset(data, images, take, context), captions };
}
