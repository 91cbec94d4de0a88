import { appendFile, mkdir, readFile } from "node:fs/promises";
import { dirname } from "node:path";
import { z } from "zod";
import { geometricMean } from "../measure/statistics.js";
import type { Result } from "./schema.js";

const entrySchema = z.strictObject({
  date: z.iso.datetime(),
  commit: z.string().nullable(),
  cpu: z.string(),
  threads: z.number().int(),
  rates: z.record(z.string(), z.number()).describe("geometric mean rate by family"),
});

/** One line of `history.jsonl`. */
export type HistoryEntry = z.output<typeof entrySchema>;

export function historyEntry({ date, commit, machine, measurements }: Result): HistoryEntry {
  const families = [...new Set(measurements.map(({ family }) => family))];
  const rates = families.map((family) => {
    const members = measurements.filter((each) => each.family === family);
    return [family, geometricMean(members.map(({ ours }) => ours.rate.median))] as const;
  });
  return { date, commit, cpu: machine.cpu, threads: machine.threads, rates: Object.fromEntries(rates) };
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
        throw new Error(`${path}: line ${i + 1} is not a record of the history; mend or remove it`, { cause });
      }
    });
}
