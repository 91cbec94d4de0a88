import { existsSync } from "node:fs";
import { appendFile, readFile } from "node:fs/promises";
import { join } from "node:path";
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

const fileOf = (directory: string): string => join(directory, "results.jsonl");

export async function readResults(directory: string): Promise<ResultRow[]> {
  if (!existsSync(fileOf(directory))) return [];
  // A line torn by a kill is left out, and its arm run again.
  return (await readFile(fileOf(directory), "utf8")).split("\n").flatMap((line) => {
    try {
      return [JSON.parse(line) as ResultRow];
    } catch {
      return [];
    }
  });
}

/** The line feed before a row ends a line that a kill has torn. */
export async function appendResult(directory: string, row: ResultRow): Promise<void> {
  await appendFile(fileOf(directory), `\n${JSON.stringify(row)}\n`);
}
