import type { TokenFile } from "./token-file.js";

/** Target of a position that is not to be predicted: the loss leaves it out. */
export const ignoredTarget = -1;

/** Rows of tokens and, one ahead, what each position should predict. */
export interface TokenBatch {
  /** Rows. */
  batch: number;
  /** Positions per row. */
  sequence: number;
  /** Ids, `[batch, sequence]`. */
  tokens: Int32Array;
  /** The id after each token, or -1 where nothing is to be predicted, `[batch, sequence]`. */
  targets: Int32Array;
  /** Number of the document within its row, `[batch, sequence]`: positions attend to their own document only. */
  segments?: Int32Array;
  /** Number of the domain that each row was drawn from, `[batch]`. */
  domain: Int32Array;
}

export function emptyBatch(batch: number, sequence: number, segments: boolean): TokenBatch {
  const size = batch * sequence;
  return {
    batch,
    sequence,
    tokens: new Int32Array(size),
    targets: new Int32Array(size).fill(ignoredTarget),
    ...(segments && { segments: new Int32Array(size) }),
    domain: new Int32Array(batch),
  };
}

/**
 * Fills a row with the window of `length` tokens at `start`, and their successors as targets. With segments, the last token of a
 * document has no target: what follows is another text.
 */
export function fillRow(
  target: TokenBatch,
  row: number,
  file: TokenFile,
  start: number,
  length = target.sequence,
): void {
  const at = row * target.sequence;
  const window = new Int32Array(length + 1);
  file.read(start, window);
  target.tokens.set(window.subarray(0, length), at);
  target.targets.set(window.subarray(1), at);
  if (!target.segments) return;
  const segments = new Int32Array(length + 1);
  file.readSegments(start, segments);
  target.segments.set(segments.subarray(0, length), at);
  for (let i = 0; i < length; i++) if (segments[i] !== segments[i + 1]) target.targets[at + i] = ignoredTarget;
}
