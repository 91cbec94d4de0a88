import { holm, mean, type PairedTest, pairedTest, signFlipP, varianceRatio, winTieLose } from "../algorithm/index.js";
import { armName, armsOf, type Cell, cellName, cellsOf, type ExperimentSettings, falsifiers } from "./plan.js";
import type { ResultRow } from "./run.js";

/** An arm against plain PPO of the same cell, paired by seed. */
export interface ArmSummary {
  cell: string;
  arm: string;
  seeds: number;
  gold: number;
  reward: number;
  length: number;
  failures: number;
  /** Differences of mean true quality to PPO; undefined for PPO itself, or with fewer than two seeds. */
  difference?: PairedTest;
  signFlipP?: number;
  /** Of held-out responses, all seeds together. */
  winRate?: number;
  rho?: number;
  predictedVarianceRatio?: number;
}

export interface FalsifierVerdict {
  falsifier: string;
  /** Undefined when the results do not decide. */
  holds: boolean | undefined;
  evidence: string;
}

export function summarise(
  rows: readonly ResultRow[],
  settings: ExperimentSettings,
): { arms: ArmSummary[]; holmP: Record<string, number>; verdicts: FalsifierVerdict[] } {
  const find = (cell: string, arm: string) => rows.filter((row) => row.cell === cell && row.arm === arm);
  const arms = cellsOf(settings).flatMap((cell) =>
    armsOf(cell, settings).flatMap((arm) => summaryOf(cellName(cell), armName(arm), find)),
  );
  const headline = arms.filter(({ arm, signFlipP: p }) => arm === `contrast k=${settings.headline}` && p !== undefined);
  const adjusted = holm(headline.map(({ signFlipP: p }) => p!));
  const holmP = Object.fromEntries(headline.map(({ cell }, i) => [cell, adjusted[i]!]));
  return { arms, holmP, verdicts: verdictsOf(arms, rows, settings) };
}

function summaryOf(cell: string, arm: string, find: (cell: string, arm: string) => ResultRow[]): ArmSummary[] {
  const own = find(cell, arm);
  if (own.length === 0) return [];
  const plain = find(cell, "PPO");
  const paired = own.flatMap((row) =>
    plain.filter(({ seed }) => seed === row.seed).map((other) => [row, other] as const),
  );
  const differences = paired.map(([a, b]) => a.gold - b.gold);
  const rhos = own.flatMap(({ rho }) => (rho === undefined ? [] : [rho]));
  const samples = Number(/k=(\d+)/.exec(arm)?.[1]);
  return [
    {
      cell,
      arm,
      seeds: own.length,
      gold: mean(own.map(({ gold }) => gold)),
      reward: mean(own.map(({ reward }) => reward)),
      length: mean(own.map(({ length }) => length)),
      failures: own.filter(({ failure }) => failure !== undefined).length,
      ...(arm !== "PPO" &&
        differences.length > 1 && {
          difference: pairedTest(differences),
          ...(differences.length <= 20 && { signFlipP: signFlipP(differences) }),
          winRate: winTieLose(
            paired.flatMap(([a]) => a.golds),
            paired.flatMap(([, b]) => b.golds),
          ).winRate,
        }),
      ...(rhos.length > 0 && { rho: mean(rhos), predictedVarianceRatio: varianceRatio(mean(rhos), samples) }),
    },
  ];
}

function verdictsOf(
  arms: readonly ArmSummary[],
  rows: readonly ResultRow[],
  settings: ExperimentSettings,
): FalsifierVerdict[] {
  const at = (cell: Cell, arm: string) =>
    arms.find((each) => each.cell === cellName(cell) && each.arm === arm)?.difference;
  const offset = (sigma: number, prompts: number): Cell => ({ kind: "offset", sigma, prompts });
  const interval = (test: PairedTest | undefined) =>
    test ? `${test.mean.toFixed(3)} (${test.interval.map((x) => x.toFixed(3)).join(" to ")})` : "no result";
  const headline = `contrast k=${settings.headline}`;
  const none = at(offset(0, settings.prompts), "contrast k=4");
  const many = at(offset(1, settings.prompts), headline);
  const few = at(offset(1, settings.fewPrompts), headline);
  const weights = new Map<number, Set<string>>();
  for (const { cell, arm, seed, weights: hash } of rows) {
    const full = settings.offsets.some((sigma) => cell === cellName(offset(sigma, settings.prompts)));
    if (arm === headline && full) weights.set(seed, (weights.get(seed) ?? new Set()).add(hash));
  }
  const same = [...weights.values()].filter(({ size }) => size === 1).length;
  return [
    {
      falsifier: falsifiers.noOffset,
      holds: none && none.interval[0] <= 0,
      evidence: `k=4 minus PPO: ${interval(none)}`,
    },
    {
      falsifier: falsifiers.invariance,
      holds: weights.size > 0 ? same === weights.size : undefined,
      evidence: `${same} of ${weights.size} seeds have the same weights for offsets ${settings.offsets.join(", ")}`,
    },
    {
      falsifier: falsifiers.fewPrompts,
      holds: many && few && few.mean < many.mean,
      evidence: `few prompts: ${interval(few)}; many: ${interval(many)}`,
    },
  ];
}
