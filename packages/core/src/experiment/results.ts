import { existsSync } from "node:fs";
import { appendFile, readFile } from "node:fs/promises";
import { join } from "node:path";

const fileOf = (directory: string): string => join(directory, "results.jsonl");

/** The rows of `results.jsonl`; none where it is missing. A line torn by a kill is left out, and its arm run again. */
export async function readResultRows<Row>(directory: string): Promise<Row[]> {
  if (!existsSync(fileOf(directory))) return [];
  return (await readFile(fileOf(directory), "utf8")).split("\n").flatMap((line) => {
    try {
      return [JSON.parse(line) as Row];
    } catch {
      return [];
    }
  });
}

/** The line feed before a row ends a line that a kill has torn. */
export async function appendResultRow(directory: string, row: object): Promise<void> {
  await appendFile(fileOf(directory), `\n${JSON.stringify(row)}\n`);
}
