import { type PairedTest, pairedRows, pairedTest } from "@trefoil/core";
import { type Arm, armName, armsOf, type ExperimentSettings } from "./plan.js";
import type { ResultRow } from "./results.js";

/** An arm over seeds. */
export interface ArmSummary {
  arm: string;
  seeds: number;
  bitsPerByte: Record<string, number>;
  mean: number;
  switching: number;
  /** Change of prose, which every arm's seed has learnt, against the seed; above 0: forgotten. */
  forgetting: number;
  /** Of `mean` and `switching` against dense continued training at equal FLOPs, paired by seed. */
  againstDense?: PairedTest;
  switchingAgainstDense?: PairedTest;
  exactMatch?: number;
  specialisation?: number;
  tokens: number;
  flops: number;
  seconds: number;
}

const average = (values: readonly number[]) => values.reduce((sum, value) => sum + value, 0) / values.length;

export type Score = (row: ResultRow) => number;

/** Differences of two arms, one for each seed that has both. */
export function differences(rows: readonly ResultRow[], a: Arm, b: Arm, score: Score): number[] {
  const of = (arm: Arm) => rows.filter((row) => row.arm === armName(arm));
  return pairedRows(of(a), of(b)).map(([row, other]) => score(row) - score(other));
}

/** Undefined for fewer than two differences. */
export const tested = (values: readonly number[]): PairedTest | undefined =>
  values.length > 1 ? pairedTest(values) : undefined;

export function summarise(rows: readonly ResultRow[], settings: ExperimentSettings): ArmSummary[] {
  return armsOf(settings).flatMap((arm): ArmSummary[] => {
    const own = rows.filter((row) => row.arm === armName(arm));
    if (own.length === 0) return [];
    const of = (score: Score) => average(own.map(score));
    const optional = (key: "exactMatch" | "specialisation") =>
      own.every((row) => row[key] !== undefined) ? { [key]: of((row) => row[key]!) } : {};
    const forgotten = differences(rows, arm, { kind: "seed" }, (row) => row.bitsPerByte.prose!);
    const dense: Arm = { kind: "dense", match: "FLOPs" };
    const against = (score: Score) =>
      armName(arm) === armName(dense) ? undefined : tested(differences(rows, arm, dense, score));
    const [onMean, onSwitching] = [against(({ mean }) => mean), against(({ switching }) => switching)];
    return [
      {
        arm: armName(arm),
        seeds: own.length,
        bitsPerByte: Object.fromEntries(
          Object.keys(own[0]!.bitsPerByte).map((domain) => [domain, of((row) => row.bitsPerByte[domain]!)]),
        ),
        mean: of(({ mean }) => mean),
        switching: of(({ switching }) => switching),
        forgetting: average(forgotten),
        ...(onMean && { againstDense: onMean }),
        ...(onSwitching && { switchingAgainstDense: onSwitching }),
        ...optional("exactMatch"),
        ...optional("specialisation"),
        tokens: of(({ tokens }) => tokens),
        flops: of(({ flops }) => flops),
        seconds: of(({ seconds }) => seconds),
      },
    ];
  });
}
