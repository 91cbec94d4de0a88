import { expect, test } from "vitest";
import { interleave } from "../src/measure/interleave.js";
import type { Side } from "../src/measure/side.js";
import { geometricMean, pairedRatio, spread } from "../src/measure/statistics.js";
import { compareResults } from "../src/results/compare.js";
import { familyTrend, type HistoryEntry } from "../src/results/history.js";
import type { Result } from "../src/results/schema.js";

test("quartiles are interpolated as NumPy's percentile does", () => {
  // np.percentile([3, 1, 4, 1, 5, 9], [25, 50, 75])
  expect(spread([3, 1, 4, 1, 5, 9])).toEqual({ low: 1.5, median: 3.5, high: 4.75, samples: 6 });
  expect(() => spread([])).toThrow(RangeError);
});

test("a paired ratio does not see drift that hits both sides", () => {
  const drift = [1, 1.5, 3, 0.8, 2];
  const ours = drift.map((factor) => 2 * factor);
  const theirs = drift.map((factor) => 5 * factor);
  expect(pairedRatio(ours, theirs)).toEqual({ median: 2.5, low: 2.5, high: 2.5, samples: 5 });
  expect(() => pairedRatio([1], [1, 2])).toThrow(RangeError);
  expect(geometricMean([0.5, 2, 4])).toBeCloseTo(4 ** (1 / 3), 12);
});

test("sides take turns, each first as often as the others", async () => {
  const order: string[] = [];
  const fake = (name: string): Side => ({
    name,
    async run(repetitions) {
      order.push(`${name}${repetitions > 1 ? "*" : ""}`);
      // Longer than a turn, so that one repetition is a turn.
      await new Promise((resolve) => setTimeout(resolve, 12));
      return { seconds: 0.012 };
    },
  });
  const timings = await interleave([fake("a"), fake("b"), fake("c")], { rounds: 3, seconds: 0.045 });
  expect(timings.map((each) => each.length)).toEqual([3, 3, 3]);
  // Warm-up and estimate of each, then the rounds.
  expect(order.slice(0, 6)).toEqual(["a", "a", "b", "b", "c", "c"]);
  expect(order.slice(6)).toEqual(["a", "b", "c", "b", "c", "a", "c", "a", "b"]);
});

test("short work is repeated to fill its turn, and budget limits the rounds of long work", async () => {
  let most = 0;
  const short: Side = {
    name: "short",
    async run(repetitions) {
      most = Math.max(most, repetitions);
      return { seconds: 1e-5 };
    },
  };
  await interleave([short], { rounds: 2, seconds: 0.1 });
  expect(most).toBeGreaterThan(10);

  const long: Side = {
    name: "long",
    async run() {
      await new Promise((resolve) => setTimeout(resolve, 20));
      return { seconds: 0.02 };
    },
  };
  const [timings] = await interleave([long], { rounds: 50, seconds: 0.1 });
  expect(timings!.length).toBeGreaterThanOrEqual(3);
  expect(timings!.length).toBeLessThanOrEqual(5);
});

test("an abort ends the rounds", async () => {
  const controller = new AbortController();
  const side: Side = {
    name: "side",
    async run() {
      controller.abort();
      return { seconds: 1 };
    },
  };
  await expect(interleave([side], { rounds: 3, seconds: 1, signal: controller.signal })).rejects.toThrow(/abort/i);
});

const at = (rate: number, width: number) => ({
  median: rate,
  low: rate * (1 - width),
  high: rate * (1 + width),
  samples: 9,
});

function result(rates: Record<string, ReturnType<typeof at>>): Result {
  const measurements = Object.entries(rates).map(([name, rate]) => ({
    suite: "kernels" as const,
    family: "matmul",
    name,
    threads: 2,
    unit: "GFLOP/s" as const,
    amount: 1,
    shareOfPeak: null,
    ours: { name: "trefoil", seconds: rate, rate },
    others: [],
    ratios: {},
    details: {},
  }));
  return { measurements } as unknown as Result;
}

test("a change is clear only when the quartiles are apart and it is not small", () => {
  const before = result({ slower: at(100, 0.02), noisy: at(100, 0.2), small: at(100, 0.001), gone: at(1, 0) });
  const after = result({ slower: at(80, 0.02), noisy: at(80, 0.2), small: at(98, 0.001), fresh: at(1, 0) });
  const changes = compareResults(before, after);
  expect(changes.map(({ key, ratio, clear }) => [key, ratio, clear])).toEqual([
    ["kernels/matmul/slower @2", 0.8, true],
    ["kernels/matmul/noisy @2", 0.8, false],
    ["kernels/matmul/small @2", 0.98, false],
  ]);
});

test("the history compares each case with its own first record", () => {
  const record = (rates: HistoryEntry["rates"]): HistoryEntry => ({
    date: "2026-01-01T00:00:00.000Z",
    commit: null,
    cpu: "any",
    threads: 1,
    rates,
  });
  const history = [
    record({ matmul: { small: 10 } }),
    record({ matmul: { small: 20, large: 500 } }),
    record({ adamw: { large: 1 } }),
    record({ matmul: { large: 1000, small: 5 } }),
  ];
  // Doubled and new; absent; doubled and halved.
  expect(familyTrend(history, "matmul")).toEqual([
    1,
    expect.closeTo(Math.SQRT2, 12),
    Number.NaN,
    expect.closeTo(1, 12),
  ]);
});
