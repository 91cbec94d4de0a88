import { emptyBatch, fillRow, type TokenBatch } from "./batch.js";
import { DataError } from "./errors.js";
import type { TokenFile } from "./token-file.js";

export interface EvaluationOptions {
  /** Rows of a batch. */
  batch: number;
  /** Positions of a row. */
  sequence: number;
  /** Use so many windows, spread evenly over the file. Default: all. */
  maxWindows?: number;
  segments?: boolean;
}

/**
 * A file's windows in order. Every token but the first is predicted exactly once; the last window, and the last batch, are
 * filled up with targets of -1, so that all batches have one shape.
 * @throws DataError `DATA_EMPTY` for a file of under two tokens, `DATA_INVALID_OPTION`
 */
export function* evaluationBatches(
  file: TokenFile,
  { batch, sequence, maxWindows = Infinity, segments = false }: EvaluationOptions,
): Generator<TokenBatch> {
  if (file.tokens < 2)
    throw new DataError("DATA_EMPTY", `${file.path} has ${file.tokens} tokens: there is nothing to predict`);
  for (const [name, value] of Object.entries({ batch, sequence })) {
    if (!Number.isSafeInteger(value) || value < 1)
      throw new DataError("DATA_INVALID_OPTION", `${name} is ${value}: choose a positive whole number`);
  }
  if (!(maxWindows >= 1)) throw new DataError("DATA_INVALID_OPTION", `maxWindows is ${maxWindows}: choose at least 1`);
  const windows = Math.ceil((file.tokens - 1) / sequence);
  const used = Math.min(windows, maxWindows);
  for (let first = 0; first < used; first += batch) {
    const filled = emptyBatch(batch, sequence, segments);
    for (let row = 0; row < Math.min(batch, used - first); row++) {
      const start = Math.floor(((first + row) * windows) / used) * sequence;
      fillRow(filled, row, { file }, start, Math.min(sequence, file.tokens - 1 - start));
    }
    yield filled;
  }
}
