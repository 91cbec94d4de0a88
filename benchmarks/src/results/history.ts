import { appendFile, mkdir, readFile } from "node:fs/promises";
import { dirname } from "node:path";
import { z } from "zod";
import { BenchError } from "../errors.js";
import { geometricMean } from "../measure/statistics.js";
import type { Result } from "./schema.js";

const entrySchema = z.strictObject({
  date: z.iso.datetime(),
  commit: z.string().nullable(),
  cpu: z.string(),
  threads: z.number().int(),
  rates: z
    .record(z.string(), z.record(z.string(), z.number()))
    .describe("median rate by family and case, in the case's unit"),
});

/** One line of `history.jsonl`. */
export type HistoryEntry = z.output<typeof entrySchema>;

export function historyEntry({ date, commit, machine, measurements }: Result): HistoryEntry {
  const rates: HistoryEntry["rates"] = {};
  for (const { family, name, ours } of measurements) {
    rates[family] ??= {};
    rates[family][name] = Number(ours.rate.median.toPrecision(4));
  }
  return { date, commit, cpu: machine.cpu, threads: machine.threads, rates };
}

/**
 * How a family's rates stand to the first record of each of its cases, record by record: the geometric mean over the cases
 * that a record has, so that runs of selected work can be compared; NaN where it has none.
 */
export function familyTrend(history: readonly HistoryEntry[], family: string): number[] {
  const first = new Map<string, number>();
  return history.map(({ rates }) => {
    const ratios = Object.entries(rates[family] ?? {}).map(([name, rate]) => {
      if (!first.has(name)) first.set(name, rate);
      return rate / first.get(name)!;
    });
    return ratios.length > 0 ? geometricMean(ratios) : Number.NaN;
  });
}

export async function appendHistory(path: string, entry: HistoryEntry): Promise<void> {
  await mkdir(dirname(path), { recursive: true });
  await appendFile(path, `${JSON.stringify(entry)}\n`);
}

/** All records, oldest first; none where there is no file. @throws Error naming the line that is not a record */
export async function readHistory(path: string): Promise<HistoryEntry[]> {
  let text: string;
  try {
    text = await readFile(path, "utf8");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return [];
    throw error;
  }
  return text
    .split("\n")
    .filter(Boolean)
    .map((line, i) => {
      try {
        return entrySchema.parse(JSON.parse(line));
      } catch (cause) {
        throw new BenchError(
          "BENCH_HISTORY",
          `${path}: line ${i + 1} is not a record of the history; mend or remove it`,
          {
            cause,
          },
        );
      }
    });
}
