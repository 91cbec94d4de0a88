import { existsSync } from "node:fs";
import { mkdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { isDeepStrictEqual } from "node:util";
import { readResultRows, writeFileAtomic } from "@trefoil/core";
import { type DomainRouting, StageError } from "../stages/index.js";
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
}

export const resultKey = ({ arm, seed }: Pick<ResultRow, "arm" | "seed">): string => `${seed} ${arm}`;

/** Whether every arm of every seed has its line. */
export function isComplete(rows: readonly ResultRow[], settings: ExperimentSettings): boolean {
  const known = new Set(rows.map(resultKey));
  const seeds = Array.from({ length: settings.seeds }, (_, i) => i + 1);
  return armsOf(settings).every((arm) => seeds.every((seed) => known.has(resultKey({ arm: armName(arm), seed }))));
}

export const readResults = (directory: string): Promise<ResultRow[]> => readResultRows(directory);

const settingsFile = (directory: string): string => join(directory, "settings.json");

/** The settings that a folder's results were made with; undefined where it does not say. */
export async function experimentSettings(directory: string): Promise<ExperimentSettings | undefined> {
  if (!existsSync(settingsFile(directory))) return undefined;
  return JSON.parse(await readFile(settingsFile(directory), "utf8")) as ExperimentSettings;
}

/** Notes the settings of a new folder. @throws StageError where it has results of other settings: the two cannot be compared */
export async function keepSettings(directory: string, settings: ExperimentSettings): Promise<void> {
  await mkdir(directory, { recursive: true });
  const before = await experimentSettings(directory);
  if (!before) return await writeFileAtomic(settingsFile(directory), `${JSON.stringify(settings, null, 2)}\n`);
  const keys = Object.keys(settings) as (keyof ExperimentSettings)[];
  // More seeds, or more shares of the compute, are more lines of the same experiment.
  const changed = keys.find(
    (key) => key !== "seeds" && key !== "shares" && !isDeepStrictEqual(before[key], settings[key]),
  );
  if (changed)
    throw new StageError(
      "BTX_RESUME",
      `${directory} holds results with ${changed} ${JSON.stringify(before[changed])}, not ${JSON.stringify(settings[changed])}: name another folder, or give the settings it was begun with`,
    );
  await writeFileAtomic(settingsFile(directory), `${JSON.stringify(settings, null, 2)}\n`);
}
