import { sceneSeed } from "../pipeline/index.js";
import { shareAmong } from "../world/index.js";
import { type ExperimentSettings, type TestName, tests } from "./plan.js";

/** Of the scenes of the true pairs, apart from those of the tests. */
export const truthSeries = 1;

/** Shares of a test's scenes that stand among the human pairs, and among the true pairs of other scenes. */
export type SeenScenes = Record<TestName, { pairs: number; truth: number }>;

/** Means over seeds. Splits are drawn apart, but a small world has few scenes of one object, and most are among thousands of pairs. */
export function seenScenes({ seeds, testPictures: length, pipeline }: ExperimentSettings): SeenScenes {
  const { world, pairs, synthetic } = pipeline;
  const over = (share: (seed: number) => number): number =>
    Array.from({ length: seeds }, (_, i) => share(i + 1)).reduce((sum, each) => sum + each, 0) / seeds;
  const of = (split: TestName) => ({
    pairs: over((seed) => {
      const own = sceneSeed(seed);
      return shareAmong({ split, seed: own, length }, { split: "paired", seed: own, length: pairs }, world);
    }),
    truth: over((seed) => {
      const others = { split: "balanced", seed: sceneSeed(seed, truthSeries), length: synthetic } as const;
      return shareAmong({ split, seed: sceneSeed(seed), length }, others, world);
    }),
  });
  return Object.fromEntries(tests.map((test) => [test, of(test)])) as SeenScenes;
}
