import { readResultRows } from "@trefoil/core";
import type { CaptionSetReport } from "../captions/index.js";
import type { Faithfulness } from "../faithfulness/index.js";
import type { CaptionerScores, PictureUse } from "../vlm/index.js";
import type { EfficiencyCell } from "./efficiency.js";
import type { TestName } from "./plan.js";

/** A line of `results.jsonl`. */
export interface ResultRow {
  arm: string;
  seed: number;
  /** CPU seconds of this row, stages that it was the first to need included. */
  seconds: number;
  faithfulness?: Record<TestName, Faithfulness>;
  captions?: Record<"balanced" | "skewed", CaptionSetReport>;
  scores?: Record<TestName, CaptionerScores>;
  use?: PictureUse;
  /** Captions of the first pictures of `test`. */
  written?: string[];
  efficiency?: EfficiencyCell[];
}

export const resultKey = ({ arm, seed }: Pick<ResultRow, "arm" | "seed">): string => `${seed} ${arm}`;

export const readResults = (directory: string): Promise<ResultRow[]> => readResultRows(directory);
