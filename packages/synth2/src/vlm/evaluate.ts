import { type CaptionScores, scoreCaptions } from "../metrics/index.js";
import { type AttributeAccuracy, attributeAccuracy } from "../world/index.js";
import type { CodedDataset } from "./datasets.js";

export interface CaptionerScores extends Pick<CaptionScores, "cider" | "bleu" | "rougeL"> {
  pictures: number;
  /** For pictures of the built-in world: how much of what captions say is true. */
  attributes?: AttributeAccuracy;
}

/** Scores captions of a dataset's pictures against its own captions, and against its scenes where they are known. */
export function scoreDataset(captions: readonly string[], { samples }: Pick<CodedDataset, "samples">): CaptionerScores {
  const { cider, bleu, rougeL } = scoreCaptions(
    captions.map((caption, i) => ({ caption, references: samples[i]!.captions })),
  );
  const scenes = captions.flatMap((caption, i) => {
    const scene = samples[i]!.attributes;
    return scene ? [{ caption, scene }] : [];
  });
  const attributes = scenes.length === captions.length ? attributeAccuracy(scenes) : undefined;
  return { pictures: captions.length, cider, bleu, rougeL, ...(attributes && { attributes }) };
}
