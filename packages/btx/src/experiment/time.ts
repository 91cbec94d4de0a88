import type { ResultRow } from "./results.js";

/** Minutes in which arms were worked on, several at a time or not, and CPU minutes of all of them together. */
export interface TimeSpent {
  wall: number;
  cpu: number;
}

/** What the run took, over all the times it was stopped and went on. Undefined where a row, of an older version, does not say. */
export function timeSpent(rows: readonly ResultRow[]): TimeSpent | undefined {
  if (rows.length === 0) return undefined;
  const works: Required<ResultRow>["work"][] = [];
  for (const { work } of rows) {
    if (!work) return undefined;
    works.push(work);
  }
  works.sort((a, b) => a.began - b.began);
  let [wall, end] = [0, 0];
  for (const { began, ended } of works) {
    wall += Math.max(0, ended - Math.max(began, end));
    end = Math.max(end, ended);
  }
  return { wall: wall / 60_000, cpu: works.reduce((sum, { cpu }) => sum + cpu, 0) / 60 };
}
