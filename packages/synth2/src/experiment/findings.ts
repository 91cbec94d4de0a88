import type { EfficiencyCell, Way } from "./efficiency.js";
import {
  type Arm,
  equalWithin,
  expectations,
  faithfulEnough,
  genImage,
  genPair,
  genPairOnly,
  humanOnly,
  paper,
  skewed,
  type TestName,
  truePairs,
} from "./plan.js";
import type { ResultRow } from "./results.js";
import { ciderOf, differences, type Score, tested } from "./summary.js";

export interface Finding {
  statement: string;
  /** `not shown`: the 95 % interval includes the bound. */
  holds: "yes" | "no" | "not shown";
  evidence: string;
}

const signed = (digits: number) => (value: number) => `${value >= 0 ? "+" : ""}${value.toFixed(digits)}`;
const percent = (value: number): string => `${(100 * value).toFixed(1)} %`;

/** Whether the mean of `values`, one for each seed, is above `bound`. */
function above(statement: string, values: readonly number[], bound: number, text: (value: number) => string): Finding {
  const test = tested(values);
  if (!test) return { statement, holds: "not shown", evidence: "fewer than two seeds" };
  const [low, high] = test.interval;
  const holds = low > bound ? "yes" : high < bound ? "no" : "not shown";
  return {
    statement,
    holds,
    evidence: `${text(test.mean)} (95 %: ${text(low)} to ${text(high)}, ${test.count} seeds)`,
  };
}

/** The expectations, each with a 95 % interval over seeds; faithfulness first, because it decides what the rest can mean. */
export function findings(rows: readonly ResultRow[]): Finding[] {
  const points = signed(1);
  const better = (statement: string, a: Arm, b: Arm, test: TestName): Finding =>
    above(statement, differences(rows, a, b, ciderOf(test)), 0, points);
  const faithful = rows.flatMap(({ faithfulness }) =>
    faithfulness ? [faithfulness.balanced.ratio ?? Number.NaN] : [],
  );
  return [
    above(expectations.faithful, faithful.filter(Number.isFinite), faithfulEnough, percent),
    better(expectations.room, truePairs, humanOnly, "novel"),
    better(expectations.novel, genPair, humanOnly, "novel"),
    better(expectations.balanced, genPair, humanOnly, "balanced"),
    above(expectations.gain, relativeGains(rows, genPair, ciderOf("balanced")), paper.gain, percent),
    equal(rows),
    better(expectations.captions, genPair, skewed, "balanced"),
    better(expectations.only, humanOnly, genPairOnly, "test"),
    above(expectations.cached, savings(rows, "cached"), paper.saving, percent),
    above(expectations.onTheFly, savings(rows, "on the fly"), paper.saving, percent),
    above(
      expectations.memory,
      overCells(rows, "on the fly", (embeddings, pixels) => 1 - embeddings.peakBytes / pixels.peakBytes),
      0,
      percent,
    ),
  ];
}

/** Of an arm over the human one, seed by seed. */
function relativeGains(rows: readonly ResultRow[], arm: Arm, score: Score): number[] {
  const relative: Score = (row) => Math.log(score(row));
  return differences(rows, arm, humanOnly, relative).map(Math.expm1).filter(Number.isFinite);
}

function equal(rows: readonly ResultRow[]): Finding {
  const statement = expectations.image;
  const test = tested(relativeGains(rows, genImage, ciderOf("test")));
  if (!test) return { statement, holds: "not shown", evidence: "fewer than two seeds" };
  const [low, high] = test.interval;
  const outside = low > equalWithin || high < -equalWithin;
  const holds = outside ? "no" : low > -equalWithin && high < equalWithin ? "yes" : "not shown";
  const evidence = `${percent(test.mean)} (95 %: ${percent(low)} to ${percent(high)}, ${test.count} seeds)`;
  return { statement, holds, evidence };
}

/** Of embeddings and pixels in each seed. */
function overCells(
  rows: readonly ResultRow[],
  generation: Way["generation"],
  of: (embeddings: EfficiencyCell, pixels: EfficiencyCell) => number,
): number[] {
  return rows.flatMap(({ efficiency }) => {
    const cell = (path: Way["path"]) =>
      efficiency?.find((each) => each.generation === generation && each.path === path);
    const [embeddings, pixels] = [cell("embeddings"), cell("pixels")];
    return embeddings && pixels ? [of(embeddings, pixels)] : [];
  });
}

export const totalSeconds = ({ seconds }: EfficiencyCell): number =>
  Object.values(seconds).reduce((sum, value) => sum + value, 0);

/** Share of the time of pixels that embeddings save. */
const savings = (rows: readonly ResultRow[], generation: Way["generation"]): number[] =>
  overCells(rows, generation, (embeddings, pixels) => 1 - totalSeconds(embeddings) / totalSeconds(pixels));
