import type { CaptionOrigin, PipelineSettings } from "../pipeline/index.js";
import type { Split } from "../world/index.js";

/** What a vision-language model learns from, beside or instead of the human pairs. */
export interface Arm {
  name: string;
  /** `truth`: true pictures of other scenes with human captions, the most that synthetic pairs could be worth. */
  extra?: CaptionOrigin | "truth";
  /** Of the batches. */
  share: number;
}

const share = 0.5;

/** Equal updates, one image tokenizer: arms differ in their pairs alone. */
export const arms: readonly Arm[] = [
  { name: "human only", share: 0 },
  { name: "human + GenImage", extra: "human", share },
  { name: "human + GenPair", extra: "balanced", share },
  { name: "human + GenPair, skewed captions", extra: "skewed", share },
  { name: "GenPair only", extra: "balanced", share: 1 },
  { name: "human + true pairs", extra: "truth", share },
];

export const [humanOnly, genImage, genPair, skewed, genPairOnly, truePairs] = arms as readonly [
  Arm,
  Arm,
  Arm,
  Arm,
  Arm,
  Arm,
];

/** Rows of `results.jsonl` that are no arm: measured before the arms, and after them. */
export const faithfulnessRow = "faithfulness";
export const efficiencyRow = "efficiency";

export const rowsOfSeed: readonly string[] = [faithfulnessRow, ...arms.map(({ name }) => name), efficiencyRow];

/** Pictures like the paired ones, of all looks alike, and of looks that no pair has. */
export const tests = ["test", "balanced", "novel"] as const satisfies readonly Split[];
export type TestName = (typeof tests)[number];

export interface ExperimentSettings {
  seeds: number;
  /** Pictures of each test. */
  testPictures: number;
  /** Updates timed for each way of training on synthetic pictures. */
  timedSteps: number;
  pipeline: PipelineSettings;
}

/** The paper's: relative gain in CIDEr of its first version, and what skipping pixels saves. */
export const paper = { gain: 0.17, saving: 0.25 } as const;

/** Generated pictures read as said, over true pictures that went through the same tokenizer: below, pairs are label noise. */
export const faithfulEnough = 0.9;

/** CIDEr of GenImage within this share of the human arm's counts as equal. */
export const equalWithin = 0.05;

/** Stated before any run. */
export const expectations = {
  faithful:
    "The generator is faithful: its pictures read as said at least 90 % as often as true ones behind the tokenizer",
  room: "There is room: true pairs of other scenes help on novel combinations",
  novel: "GenPair helps on novel combinations",
  balanced: "GenPair helps on balanced scenes",
  gain: "GenPair gains 17 % of CIDEr on balanced scenes",
  image: "GenImage is worth what the human pairs are (within 5 % on scenes like the paired ones)",
  captions: "Balanced captions help more than skewed ones on balanced scenes",
  only: "Synthetic pairs alone are worse than human ones on scenes like the paired ones",
  cached: "Embeddings save 25 % of the time against pixels, generation cached",
  onTheFly: "Embeddings save 25 % of the time against pixels, generation on the fly",
  memory: "Embeddings take less memory at the peak than pixels, generation on the fly",
} as const;
