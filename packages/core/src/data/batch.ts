import { requireHostMemory } from "../device/host-memory.js";
import { allocateHost } from "../tensor/dtype.js";
import type { Piece } from "./packing.js";
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
  /** Distance of each token from the first of its document in the row, `[batch, sequence]`; there when segments are. */
  positions?: Int32Array;
  /** Tokens of each row that are of documents, `[batch]`; there when documents are packed, which leaves some places over. */
  filled?: Int32Array;
  /** Number of the domain that each row was drawn from, `[batch]`. */
  domain: Int32Array;
}

/** @throws OutOfMemoryError when the arrays of such a batch do not fit the host's memory */
export function requireBatchMemory(batch: number, sequence: number, segments: boolean): void {
  const arrays = segments ? 4 : 2;
  requireHostMemory(4 * batch * (sequence * arrays + 1), nameOf(batch, sequence), fewer);
}

const nameOf = (batch: number, sequence: number) => `a batch of ${batch} rows of ${sequence} tokens`;
const fewer = "use fewer rows, shorter ones, or accumulate gradients over several batches";

/** @throws OutOfMemoryError */
export function emptyBatch(batch: number, sequence: number, segments: boolean): TokenBatch {
  requireBatchMemory(batch, sequence, segments);
  const array = () => allocateHost("i32", batch * sequence, nameOf(batch, sequence), fewer);
  return {
    batch,
    sequence,
    tokens: array(),
    targets: array().fill(ignoredTarget),
    ...(segments && { segments: array(), positions: array() }),
    domain: new Int32Array(batch),
  };
}

/** Text and, if not all of it is to be learnt, which tokens are: a file of as many 0s and 1s. */
export interface TrainingText {
  file: TokenFile;
  mask?: TokenFile | undefined;
}

/**
 * Fills a row with the window of `length` tokens at `start`, and their successors as targets. With segments, the last token of a
 * document has no target: what follows is another text.
 */
export function fillRow(
  target: TokenBatch,
  row: number,
  { file, mask }: TrainingText,
  start: number,
  length = target.sequence,
): void {
  const at = row * target.sequence;
  copyStretch(target, at, { file, mask }, start, length);
  if (!target.segments || !target.positions) return;
  const segments = new Int32Array(length + 1);
  file.readSegments(start, segments);
  target.segments.set(segments.subarray(0, length), at);
  for (let i = 0, first = 0; i < length; i++) {
    if (i > 0 && segments[i] !== segments[i - 1]) first = i;
    target.positions[at + i] = i - first;
    if (segments[i] !== segments[i + 1]) target.targets[at + i] = ignoredTarget;
  }
}

/** Fills a row with whole documents, each a segment; what is left over is a segment that predicts nothing. */
export function fillPackedRow(target: TokenBatch, row: number, text: TrainingText, pieces: Iterable<Piece>): void {
  const begin = row * target.sequence;
  let at = 0;
  let segment = 0;
  const mark = (length: number) => {
    target.segments!.fill(segment++, begin + at, begin + at + length);
    for (let i = 0; i < length; i++) target.positions![begin + at + i] = i;
    at += length;
  };
  for (const { start, length } of pieces) {
    copyStretch(target, begin + at, text, start, length);
    mark(length);
  }
  target.filled ??= new Int32Array(target.batch);
  target.filled[row] = at;
  mark(target.sequence - at);
}

function copyStretch(
  target: TokenBatch,
  at: number,
  { file, mask }: TrainingText,
  start: number,
  length: number,
): void {
  const window = new Int32Array(length + 1);
  file.read(start, window);
  target.tokens.set(window.subarray(0, length), at);
  target.targets.set(window.subarray(1), at);
  if (!mask) return;
  mask.read(start, window);
  for (let i = 0; i < length; i++) if (window[i + 1] === 0) target.targets[at + i] = ignoredTarget;
}
