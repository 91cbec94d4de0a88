import { pairedRows } from "@trefoil/core";
import {
  fromCounts,
  holm,
  mean,
  type PairedTest,
  pairedTest,
  signFlipP,
  varianceRatio,
  type WinTieLose,
  winTieLose,
} from "../algorithm/index.js";
import { type Arm, allCells, armName, armsOf, type Cell, cellName, type ExperimentSettings } from "./plan.js";
import type { ResultRow } from "./results.js";

/** An arm against plain PPO of the same cell, paired by seed. */
export interface ArmSummary {
  cell: string;
  arm: string;
  seeds: number;
  gold: number;
  reward: number;
  length: number;
  /** Responses that rewards were asked about in training. */
  scored: number;
  /** Nats per response at the end of training; undefined for SFT and DPO. */
  kl?: number;
  failures: number;
  /** Differences of mean true quality to PPO; undefined for PPO itself, or with fewer than two seeds. */
  difference?: PairedTest;
  signFlipP?: number;
  /** Of held-out responses, all seeds together. */
  outcome?: WinTieLose;
  /** Over seeds. */
  winRate?: PairedTest;
  /** Of responses as long as PPO's. */
  lengthMatched?: WinTieLose;
  /** Difference to PPO in the half of the held-out prompts with low and with high offline rewards. */
  low?: PairedTest;
  high?: PairedTest;
  /** Low minus high. */
  split?: PairedTest;
  /** Difference of rollouts' true quality at the same KL, the smaller of both ends. */
  matchedKl?: PairedTest;
  rho?: number;
  /** Of policy gradients, over that of plain rewards; means over seeds. */
  measuredVarianceRatio?: number;
  predictedVarianceRatio?: number;
}

/** Rows of one cell and arm. */
export type FindRows = (cell: Cell, arm: Arm) => readonly ResultRow[];

/** The rows of results by cell and arm. */
export function rowFinder(rows: readonly ResultRow[]): FindRows {
  const groups = new Map<string, ResultRow[]>();
  for (const row of rows) {
    const key = `${row.cell} ${row.arm}`;
    const group = groups.get(key);
    if (group) group.push(row);
    else groups.set(key, [row]);
  }
  return (cell, arm) => groups.get(`${cellName(cell)} ${armName(arm)}`) ?? [];
}

/** Undefined for fewer than two differences, or where all are equal. */
export const tested = (differences: readonly number[]): PairedTest | undefined =>
  differences.length > 1 && differences.some((value) => value !== differences[0]) ? pairedTest(differences) : undefined;

/** Means and tests of every arm of every cell, and the p of the headline with Holm's correction over cells. */
export function summarise(
  rows: readonly ResultRow[],
  settings: ExperimentSettings,
): { arms: ArmSummary[]; holmP: Record<string, number> } {
  const find = rowFinder(rows);
  const arms = allCells(settings).flatMap((cell) => armsOf(cell, settings).flatMap((arm) => ofArm(cell, arm, find)));
  const headline = arms.filter(({ arm, signFlipP: p }) => arm === `contrast k=${settings.headline}` && p !== undefined);
  const adjusted = holm(headline.map(({ signFlipP: p }) => p!));
  return { arms, holmP: Object.fromEntries(headline.map(({ cell }, i) => [cell, adjusted[i]!])) };
}

function ofArm(cell: Cell, arm: Arm, find: FindRows): ArmSummary[] {
  const own = find(cell, arm);
  if (own.length === 0) return [];
  const of = (value: (row: ResultRow) => number) => mean(own.map(value));
  const kls = own.flatMap(({ frontier }) => (frontier && frontier.length > 0 ? [frontier.at(-1)![0]] : []));
  return [
    {
      cell: cellName(cell),
      arm: armName(arm),
      seeds: own.length,
      gold: of(({ gold }) => gold),
      reward: of(({ reward }) => reward),
      length: of(({ lengths }) => mean(lengths)),
      scored: of(({ scored }) => scored),
      ...(kls.length > 0 && { kl: mean(kls) }),
      failures: own.filter(({ failure }) => failure !== undefined).length,
      ...(arm.kind !== "ppo" && againstPpo(own, find(cell, { kind: "ppo" }), find(cell, { kind: "sft" }))),
      ...(arm.kind === "contrast" && varianceOf(arm.samples, own, find(cell, { kind: "sft" }))),
    },
  ];
}

function againstPpo(own: readonly ResultRow[], ppo: readonly ResultRow[], sft: readonly ResultRow[]) {
  const pairs = pairedRows(own, ppo);
  if (pairs.length < 2) return {};
  const differences = pairs.map(([a, b]) => a.gold - b.gold);
  const outcomes = pairs.map(([a, b]) => winTieLose(a.golds, b.golds));
  const matched = pairs.map(([a, b]) => {
    const same = a.golds.map((_, i) => i).filter((i) => a.lengths[i] === b.lengths[i]);
    return winTieLose(
      same.map((i) => a.golds[i]!),
      same.map((i) => b.golds[i]!),
    );
  });
  const total = (list: readonly WinTieLose[]) => {
    const sum = (key: "win" | "tie" | "lose") => list.reduce((all, each) => all + each[key], 0);
    return fromCounts(sum("win"), sum("tie"), sum("lose"));
  };
  const halves = pairs.flatMap(([a, b]) => splitGain(a, b, sft.find(({ seed }) => seed === a.seed)?.offline));
  return {
    difference: pairedTest(differences),
    ...(differences.length <= 24 && { signFlipP: signFlipP(differences) }),
    outcome: total(outcomes),
    winRate: pairedTest(outcomes.map(({ winRate }) => winRate)),
    lengthMatched: total(matched),
    ...optional("low", tested(halves.map(([low]) => low))),
    ...optional("high", tested(halves.map(([, high]) => high))),
    ...optional("split", tested(halves.map(([low, high]) => low - high))),
    ...optional("matchedKl", tested(pairs.flatMap(([a, b]) => atMatchedKl(a, b)))),
  };
}

const optional = <K extends string, V>(key: K, value: V | undefined): { [P in K]?: V } =>
  (value === undefined ? {} : { [key]: value }) as { [P in K]?: V };

/** Mean difference of true quality over the prompts below and above the median offline reward. */
function splitGain(a: ResultRow, b: ResultRow, offline: readonly number[] | undefined): [number, number][] {
  if (!offline) return [];
  const each = a.golds.length / offline.length;
  const gains = offline.map((_, i) => {
    const at = (row: ResultRow) => mean(row.golds.slice(i * each, (i + 1) * each));
    return at(a) - at(b);
  });
  const order = offline.map((_, i) => i).sort((x, y) => offline[x]! - offline[y]!);
  const half = Math.floor(order.length / 2);
  const of = (indices: readonly number[]) => mean(indices.map((i) => gains[i]!));
  return [[of(order.slice(0, half)), of(order.slice(half))]];
}

/** Difference of true quality of rollouts where both runs have the same KL, linear in √KL between points. */
function atMatchedKl({ frontier: a }: ResultRow, { frontier: b }: ResultRow): number[] {
  if (!a || !b || a.length < 2 || b.length < 2) return [];
  const roots = (points: NonNullable<ResultRow["frontier"]>) =>
    points.map(([kl, gold]) => [Math.sqrt(Math.max(0, kl)), gold] as const);
  const [own, other] = [roots(a), roots(b)];
  const end = Math.min(own.at(-1)![0], other.at(-1)![0]);
  const [x, y] = [interpolate(own, end), interpolate(other, end)];
  return x === undefined || y === undefined ? [] : [x - y];
}

function interpolate(points: readonly (readonly [number, number])[], x: number): number | undefined {
  const at = points.findIndex(([own]) => own >= x);
  if (at < 0) return undefined;
  const [x1, y1] = points[at]!;
  const [x0, y0] = points[at - 1] ?? [x1, y1];
  return x1 === x0 ? y1 : y0 + ((y1 - y0) * (x - x0)) / (x1 - x0);
}

function varianceOf(samples: number, own: readonly ResultRow[], sft: readonly ResultRow[]) {
  const measured = sft.flatMap(({ gradient = [] }) => gradient.filter((each) => each.samples === samples));
  const rhos = own.flatMap(({ rho }) => (rho === undefined ? [] : [rho]));
  return {
    ...(rhos.length > 0 && { rho: mean(rhos), predictedVarianceRatio: varianceRatio(mean(rhos), samples) }),
    ...(measured.length > 0 && {
      measuredVarianceRatio: mean(measured.map((each) => each.measured)),
      predictedVarianceRatio: mean(measured.map((each) => each.predicted)),
    }),
  };
}
