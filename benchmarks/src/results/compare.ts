import { geometricMean } from "../measure/statistics.js";
import { compact, textTable } from "../report/table.js";
import { measurementKey, type Result } from "./schema.js";

/** A change smaller than this is not reported as one, however narrow the spreads. */
const smallestChange = 0.03;

export interface Change {
  key: string;
  before: number;
  after: number;
  unit: string;
  /** New rate over old. */
  ratio: number;
  /** The quartiles of the two runs do not overlap, and the medians differ by more than 3 %. */
  clear: boolean;
}

/** What changed between two runs, for the work that both have. */
export function compareResults(before: Result, after: Result): Change[] {
  const known = new Map(before.measurements.map((each) => [measurementKey(each), each]));
  return after.measurements.flatMap((now) => {
    const key = measurementKey(now);
    const then = known.get(key);
    if (!then) return [];
    const [old, fresh] = [then.ours.rate, now.ours.rate];
    const ratio = fresh.median / old.median;
    const apart = fresh.low > old.high || fresh.high < old.low;
    return [
      {
        key,
        before: old.median,
        after: fresh.median,
        unit: now.unit,
        ratio,
        clear: apart && Math.abs(ratio - 1) > smallestChange,
      },
    ];
  });
}

/** The changes as text, what got slower first. */
export function renderChanges(changes: readonly Change[], before: Result, after: Result): string {
  if (changes.length === 0) return "the two results have no work in common\n";
  const lines = [`${before.commit ?? "unknown"} -> ${after.commit ?? "unknown"}`];
  for (const field of ["cpu", "threads", "isa"] as const) {
    const [old, fresh] = [before.machine[field], after.machine[field]];
    if (old !== fresh) lines.push(`not the same ${field}: ${old} and ${fresh}`);
  }
  const rows = [...changes]
    .sort((a, b) => a.ratio - b.ratio)
    .map(({ key, before, after, unit, ratio, clear }) => {
      const verdict = clear ? (ratio < 1 ? "slower" : "faster") : "";
      return [key, compact(before), compact(after), unit, `${ratio.toFixed(2)}x`, verdict];
    });
  lines.push(textTable([["work", "before", "after", "", "ratio", ""], ...rows]));
  lines.push(
    `geometric mean ${geometricMean(changes.map(({ ratio }) => ratio)).toFixed(3)}x over ${changes.length} cases`,
  );
  return `${lines.join("\n")}\n`;
}
