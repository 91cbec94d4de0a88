import { existsSync } from "node:fs";
import { appendFile, readFile } from "node:fs/promises";
import { join } from "node:path";
import { ResumeError } from "../train/errors.js";

const fileOf = (directory: string): string => join(directory, "results.jsonl");

/**
 * The rows of `results.jsonl`; none where it is missing. A line torn by a kill is left out, and its arm run again.
 * @throws ResumeError naming a line that is JSON, but no arm of an experiment
 */
export async function readResultRows<Row>(directory: string): Promise<Row[]> {
  const file = fileOf(directory);
  if (!existsSync(file)) return [];
  return (await readFile(file, "utf8")).split("\n").flatMap((line, i) => {
    const row = parsed(line);
    if (row === undefined) return [];
    if (typeof row === "object" && row !== null && "arm" in row) return [row as Row];
    throw new ResumeError(`${file}:${i + 1} is no row of an experiment: remove that line, or name another folder`);
  });
}

function parsed(line: string): unknown {
  try {
    return JSON.parse(line);
  } catch {
    return undefined;
  }
}

/** The line feed before a row ends a line that a kill has torn. */
export async function appendResultRow(directory: string, row: object): Promise<void> {
  await appendFile(fileOf(directory), `\n${JSON.stringify(row)}\n`);
}
