import { type PairedTest, pairedRows, pairedTest } from "@trefoil/core";
import { type Arm, arms, humanOnly, type TestName, tests } from "./plan.js";
import type { ResultRow } from "./results.js";

/** An arm over seeds; CIDEr as papers print it, times 100. */
export interface ArmSummary {
  arm: string;
  seeds: number;
  cider: Record<TestName, number>;
  /** Against human pairs only, paired by seed. */
  againstHuman?: Record<TestName, PairedTest>;
  /** Share of captions of which everything is true. */
  exact: Record<TestName, number>;
  /** Cross-entropy of human captions beside their own and beside other pictures, nats per token. */
  own: number;
  other: number;
  seconds: number;
}

export type Score = (row: ResultRow) => number;

export const ciderOf =
  (test: TestName): Score =>
  ({ scores }) =>
    100 * scores![test].cider;

const average = (values: readonly number[]) => values.reduce((sum, value) => sum + value, 0) / values.length;

/** Differences of two arms, one for each seed that has both. */
export function differences(rows: readonly ResultRow[], a: Arm, b: Arm, score: Score): number[] {
  const of = ({ name }: Arm) => rows.filter(({ arm }) => arm === name);
  return pairedRows(of(a), of(b)).map(([row, other]) => score(row) - score(other));
}

/** Undefined for fewer than two values. */
export const tested = (values: readonly number[]): PairedTest | undefined =>
  values.length > 1 ? pairedTest(values) : undefined;

const perTest = <R>(of: (test: TestName) => R) =>
  Object.fromEntries(tests.map((test) => [test, of(test)])) as Record<TestName, R>;

export function summarise(rows: readonly ResultRow[]): ArmSummary[] {
  return arms.flatMap((arm): ArmSummary[] => {
    const own = rows.filter((row) => row.arm === arm.name);
    if (own.length === 0) return [];
    const against = perTest((test) => tested(differences(rows, arm, humanOnly, ciderOf(test))));
    const complete = arm !== humanOnly && tests.every((test) => against[test] !== undefined);
    return [
      {
        arm: arm.name,
        seeds: own.length,
        cider: perTest((test) => average(own.map(ciderOf(test)))),
        ...(complete && { againstHuman: against as Record<TestName, PairedTest> }),
        exact: perTest((test) => average(own.map(({ scores }) => scores![test].attributes!.exact))),
        own: average(own.map(({ use }) => use!.own)),
        other: average(own.map(({ use }) => use!.other)),
        seconds: average(own.map(({ seconds }) => seconds)),
      },
    ];
  });
}
