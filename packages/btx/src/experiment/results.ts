import { readResultRows } from "@trefoil/core";
import type { DomainRouting } from "../stages/index.js";
import type { Cost } from "./cost.js";
import type { WindowScores } from "./measure.js";
import { armName, armsOf, type ExperimentSettings } from "./plan.js";

/** One arm of one seed: a line of `results.jsonl`. */
export interface ResultRow extends WindowScores, Cost {
  arm: string;
  seed: number;
  /** Share of held-out arithmetic problems solved; not asked of ensembles. */
  exactMatch?: number;
  /** Of mixtures. */
  specialisation?: number;
  routing?: DomainRouting[];
  /** When the arm was trained and scored, in ms since 1970, and the CPU seconds of that. Rows of older versions lack it. */
  work?: { began: number; ended: number; cpu: number };
}

export const resultKey = ({ arm, seed }: Pick<ResultRow, "arm" | "seed">): string => `${seed} ${arm}`;

/** Whether every arm of every seed has its line. */
export function isComplete(rows: readonly ResultRow[], settings: ExperimentSettings): boolean {
  const known = new Set(rows.map(resultKey));
  const seeds = Array.from({ length: settings.seeds }, (_, i) => i + 1);
  return armsOf(settings).every((arm) => seeds.every((seed) => known.has(resultKey({ arm: armName(arm), seed }))));
}

export const readResults = (directory: string): Promise<ResultRow[]> => readResultRows(directory);
