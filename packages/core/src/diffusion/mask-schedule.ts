import { InvalidUseError } from "../tensor/errors.js";

const kinds = {
  cosine: (t: number) => Math.cos((Math.PI / 2) * t),
  linear: (t: number) => 1 - t,
  square: (t: number) => 1 - t * t,
  arccos: (t: number) => (2 / Math.PI) * Math.acos(t),
} as const;

/** How the share of masked tokens falls over decoding (MaskGIT, arXiv 2202.04200, section 3.3). */
export type MaskScheduleKind = keyof typeof kinds;

/**
 * Share of tokens that are masked at time t: 1 at t = 0, 0 at t = 1. In training t is uniform on [0, 1).
 * @throws InvalidUseError where t lies outside [0, 1]
 */
export function maskSchedule(kind: MaskScheduleKind, t: number): number {
  if (!(t >= 0 && t <= 1)) throw new InvalidUseError(`maskSchedule: t is ${t}; it must be in [0, 1]`);
  return kinds[kind](t);
}

function checkSteps(name: string, count: number, steps: number): void {
  if (!Number.isSafeInteger(count) || count < 0 || !Number.isSafeInteger(steps) || steps < 1) {
    throw new InvalidUseError(`${name}: needs whole counts >= 0 and steps >= 1; got ${count} and ${steps}`);
  }
}

// A product that is whole but for rounding stays whole: 10 * (1 - 0.8) is 1.9999999999999996.
const wholePart = (value: number): number => Math.floor(value + 1e-9);

/**
 * How many tokens stay masked after each of `steps` steps of decoding: what `maskedDiffusionStep` takes as `remaining`. Every step
 * reveals one token at least, as long as there are any; the last leaves none.
 * @param masked tokens masked at the start: all of them, or those to paint in
 */
export function maskCounts(masked: number, steps: number, kind: MaskScheduleKind = "cosine"): number[] {
  checkSteps("maskCounts", masked, steps);
  const counts: number[] = [];
  let before = masked;
  for (let step = 1; step < steps; step++) {
    const scheduled = Math.max(wholePart(masked * maskSchedule(kind, step / steps)), 1);
    before = Math.max(Math.min(scheduled, before - 1), 0);
    counts.push(before);
  }
  return [...counts, 0];
}

/**
 * `maskCounts` for decoding in Halton order (Besnier et al. 2025, arXiv 2503.17076): after step s of S, `(2 / π) asin(s / S)` of
 * the tokens are known, and s of them at least.
 */
export function haltonCounts(masked: number, steps: number): number[] {
  checkSteps("haltonCounts", masked, steps);
  return Array.from({ length: steps }, (_, i) => {
    const known = wholePart(masked * (1 - maskSchedule("arccos", (i + 1) / steps)));
    return masked - Math.min(Math.max(known, i + 1), masked);
  });
}
