import { CaptionClusters, type CaptionDiversity, type Coverage, coverage } from "../metrics/index.js";
import { parseCaption } from "../world/index.js";

/** How varied a set of captions is beside the human ones (Synth², section 3). */
export interface CaptionSetReport {
  written: CaptionDiversity;
  human: CaptionDiversity;
  /** Combinations of colour and shape that captions of the built-in world name; absent where none is named. */
  combinations?: { written: Coverage; human: Coverage };
}

/** @param clusters of the k-means that is fitted on the human captions */
export function compareCaptions(
  written: readonly string[],
  human: readonly string[],
  { clusters = 20, seed = 0 }: { clusters?: number; seed?: number } = {},
): CaptionSetReport {
  const reference = new CaptionClusters(human, { clusters, seed, iterations: 50 });
  const [ours, theirs] = [combinationsOf(written), combinationsOf(human)];
  const known = new Set(theirs);
  return {
    written: reference.measure(written),
    human: reference.measure(human),
    ...(ours.length > 0 &&
      theirs.length > 0 && { combinations: { written: coverage(ours, known), human: coverage(theirs, known) } }),
  };
}

const combinationsOf = (captions: readonly string[]): string[] =>
  captions.flatMap((caption) =>
    (parseCaption(caption)?.objects ?? []).flatMap(({ colour, shape }) => (colour ? [`${colour} ${shape}`] : [])),
  );
