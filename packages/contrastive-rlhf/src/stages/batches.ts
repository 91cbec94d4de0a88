import { rowsOfStep } from "@trefoil/core";
import type { PreferenceEpisodes } from "../data/index.js";
import { type Episode, tokensOf } from "../models/index.js";
import type { TrainingSettings } from "./sft.js";

type Drawing = Pick<TrainingSettings, "steps" | "batch" | "seed">;

/** The rows of a step's batch. */
export const batchOfStep = <T>(rows: readonly T[], { batch, seed }: Drawing, step: number): T[] =>
  rowsOfStep(rows.length, batch, step, seed).map((row) => rows[row]!);

/** The chosen responses, then the rejected ones. */
export const chosenFirst = (pairs: readonly PreferenceEpisodes[]): Episode[] => [
  ...pairs.map(({ chosen }) => chosen),
  ...pairs.map(({ rejected }) => rejected),
];

export const tokensOfPair = ({ chosen, rejected }: PreferenceEpisodes): number => tokensOf([chosen, rejected]);

/** More than these are not looked through. */
const comparedSteps = 1000;

/** The batch with the most tokens among those of a run, of its first 1000 steps: what it takes is known before the run begins. */
export function heaviestBatch<T>(rows: readonly T[], drawing: Drawing, tokens: (row: T) => number): T[] {
  let [heaviest, most]: [T[], number] = [[], -1];
  for (let step = 0; step < Math.min(drawing.steps, comparedSteps); step++) {
    const batch = batchOfStep(rows, drawing, step);
    const total = batch.reduce((sum, row) => sum + tokens(row), 0);
    if (total > most) [heaviest, most] = [batch, total];
  }
  return heaviest;
}
