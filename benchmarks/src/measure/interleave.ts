import type { Side, Timing } from "./side.js";

export interface InterleaveOptions {
  /** Alternations wanted; fewer (at least 3) where the work is too long for the budget. */
  rounds: number;
  /** Seconds that all sides together may take, roughly. */
  seconds: number;
  signal?: AbortSignal;
}

/** One turn of a side lasts between these, in seconds: long enough for the clock, short enough that drift hits all alike. */
const [shortestTurn, longestTurn] = [0.003, 0.1];
const maxRepetitions = 20_000;
const minRounds = 3;
/** A first repetition that lasts longer, in seconds, is warm-up and estimate in one. */
const longWarmUp = 0.5;

async function secondsOf(side: Side): Promise<number> {
  const begun = performance.now();
  await side.run(1);
  return (performance.now() - begun) / 1000;
}

/**
 * Times all sides in turns, A B C, B C A, …, so that drift of the machine hits them alike and ratios of one round are fair.
 * Every side is warmed up before, and wakes with one untimed repetition in each turn.
 * @returns the timings of each side in order of the rounds
 */
export async function interleave(sides: readonly Side[], options: InterleaveOptions): Promise<Timing[][]> {
  const { seconds, signal } = options;
  const estimates: number[] = [];
  for (const side of sides) {
    const first = await secondsOf(side);
    estimates.push(first > longWarmUp ? first : await secondsOf(side));
    signal?.throwIfAborted();
  }
  const oneRound = estimates.reduce((a, b) => a + Math.max(b, shortestTurn), 0);
  const rounds = Math.max(
    Math.min(minRounds, options.rounds),
    Math.min(options.rounds, Math.floor(seconds / oneRound)),
  );
  const turn = Math.min(longestTurn, Math.max(shortestTurn, seconds / rounds / sides.length));
  const timings: Timing[][] = sides.map(() => []);
  for (let round = 0; round < rounds; round++) {
    for (let i = 0; i < sides.length; i++) {
      const at = (round + i) % sides.length;
      const [side, estimate] = [sides[at]!, estimates[at]!];
      const repetitions = Math.min(maxRepetitions, Math.max(1, Math.round(turn / estimate)));
      // Long work does not notice a cold start.
      if (estimate < turn) await side.run(1);
      timings[at]!.push(await side.run(repetitions));
      signal?.throwIfAborted();
    }
  }
  return timings;
}
