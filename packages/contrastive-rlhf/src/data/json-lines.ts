import { readFile } from "node:fs/promises";
import { RlhfError } from "../errors.js";

/** One line of a JSONL file that holds an object. */
export interface JsonRow {
  /** Counted from 1. */
  line: number;
  value: Record<string, unknown>;
}

/** What is wrong with a row; `parseRows` adds the file and line. */
export class RowProblem extends Error {}

/** Problems that one message lists. */
const listedProblems = 20;

/**
 * Reads every row of a JSONL file.
 * @throws RlhfError `RLHF_DATA` naming file, line and fault of every malformed row (the first twenty)
 */
export async function parseRows<T>(path: string, parse: (row: JsonRow) => T): Promise<T[]> {
  let text: string;
  try {
    text = new TextDecoder("utf-8", { fatal: true }).decode(await readFile(path));
  } catch (cause) {
    const missing = (cause as NodeJS.ErrnoException).code === "ENOENT";
    throw new RlhfError("RLHF_DATA", missing ? `${path} does not exist` : `${path} cannot be read as UTF-8 text`, {
      cause,
    });
  }
  const rows: T[] = [];
  const problems: string[] = [];
  text.split("\n").forEach((content, i) => {
    if (content.trim() === "") return;
    try {
      rows.push(parse({ line: i + 1, value: parseObject(content) }));
    } catch (error) {
      if (!(error instanceof RowProblem)) throw error;
      problems.push(`${path}:${i + 1}: ${error.message}`);
    }
  });
  if (problems.length > 0) throw new RlhfError("RLHF_DATA", listOf(problems));
  if (rows.length === 0) throw new RlhfError("RLHF_DATA", `${path} has no rows`);
  return rows;
}

/** Problems of rows, a line each: the first twenty, and how many more there are. */
export function listOf(problems: readonly string[]): string {
  const more = problems.length > listedProblems ? `\nand ${problems.length - listedProblems} more rows` : "";
  return `${problems.slice(0, listedProblems).join("\n")}${more}`;
}

function parseObject(content: string): Record<string, unknown> {
  let value: unknown;
  try {
    value = JSON.parse(content);
  } catch (error) {
    throw new RowProblem(`not JSON (${error instanceof Error ? error.message : String(error)})`);
  }
  if (typeof value !== "object" || value === null || Array.isArray(value)) throw new RowProblem("not a JSON object");
  return value as Record<string, unknown>;
}
