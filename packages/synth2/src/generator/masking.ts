import { type MaskScheduleKind, maskSchedule } from "@trefoil/core";
import type { Choices } from "../world/random.js";

export interface MaskingOptions {
  /** The mask token. */
  maskToken: number;
  /** How the share of hidden codes follows from a uniform number. */
  schedule: MaskScheduleKind;
  /** The least share of hidden codes, what the schedule's share is scaled to begin at: nearly whole pictures teach little of captions. */
  leastHidden?: number;
  /**
   * What a hidden code counts: "picture" averages each picture and then the batch (MaskGIT), "batch" all hidden codes alike.
   */
  average: "picture" | "batch";
}

/** Hidden codes of a batch on the host; the fields of `MaskedBatch`. */
export interface MaskedCodes {
  tokens: Int32Array;
  targets: Int32Array;
  weights: Float32Array;
}

/**
 * Hides a random share γ(u) of each picture's codes, one at least.
 * @param codes `[batch, L]`
 * @param share of each picture, in (0, 1], instead of a drawn one
 */
export function hideCodes(
  codes: Int32Array,
  positions: number,
  choices: Choices,
  options: MaskingOptions & { share?: (picture: number) => number },
): MaskedCodes {
  const { maskToken, schedule, leastHidden = 0, average, share } = options;
  const tokens = codes.slice();
  const targets = new Int32Array(codes.length).fill(-1);
  const hidden: number[][] = [];
  for (let at = 0; at < codes.length; at += positions) {
    const ratio = share?.(hidden.length) ?? leastHidden + (1 - leastHidden) * maskSchedule(schedule, choices.next());
    const count = Math.min(positions, Math.max(1, Math.round(ratio * positions)));
    const keys = Float64Array.from({ length: positions }, () => choices.next());
    const order = Array.from(keys.keys()).sort((a, b) => keys[a]! - keys[b]!);
    hidden.push(order.slice(0, count).map((position) => at + position));
  }
  const total = hidden.reduce((sum, row) => sum + row.length, 0);
  const weights = new Float32Array(codes.length);
  for (const row of hidden) {
    for (const position of row) {
      targets[position] = codes[position]!;
      tokens[position] = maskToken;
      weights[position] = average === "batch" ? 1 / total : 1 / (row.length * hidden.length);
    }
  }
  return { tokens, targets, weights };
}

/** Which captions a batch keeps, 1 or 0 each: a caption is dropped with probability `drop`, else kept. */
export const keptConditions = (count: number, drop: number, choices: Choices): Float32Array =>
  Float32Array.from({ length: count }, () => (choices.next() < drop ? 0 : 1));
