import { readResultRows } from "@trefoil/core";
import type { DomainRouting } from "../stages/index.js";
import type { Cost } from "./cost.js";
import type { WindowScores } from "./measure.js";

/** One arm of one seed: a line of `results.jsonl`. */
export interface ResultRow extends WindowScores, Cost {
  arm: string;
  seed: number;
  /** Share of held-out arithmetic problems solved; not asked of ensembles. */
  exactMatch?: number;
  /** Of mixtures. */
  specialisation?: number;
  routing?: DomainRouting[];
}

export const resultKey = ({ arm, seed }: Pick<ResultRow, "arm" | "seed">): string => `${seed} ${arm}`;

export const readResults = (directory: string): Promise<ResultRow[]> => readResultRows(directory);
