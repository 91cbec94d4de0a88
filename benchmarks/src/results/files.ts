import { existsSync } from "node:fs";
import { mkdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { type Report, writeFileAtomic, writeReport } from "@trefoil/core";
import { type Result, resultSchema } from "./schema.js";

const slug = (text: string): string =>
  text
    .toLowerCase()
    .replace(/\((r|tm)\)|processor|cpu|@.*$/g, "")
    .replace(/[^a-z0-9]+/g, "-")
    .replace(/^-|-$/g, "");

/** Writes `<date>-<cpu>.json` and the page beside it; a second run of one day gets a number. */
export async function writeResult(
  folder: string,
  result: Result,
  page: Report,
): Promise<{ json: string; html: string }> {
  await mkdir(folder, { recursive: true });
  const base = join(folder, `${result.date.slice(0, 10)}-${slug(result.machine.cpu)}`);
  let path = base;
  for (let run = 2; existsSync(`${path}.json`); run++) path = `${base}-${run}`;
  const [json, html] = [`${path}.json`, `${path}.html`];
  await writeFileAtomic(json, `${JSON.stringify(resultSchema.parse(result), null, 1)}\n`);
  await writeReport(html, page);
  return { json, html };
}

/** @throws Error saying what in the file is not a result */
export async function readResult(path: string): Promise<Result> {
  try {
    return resultSchema.parse(JSON.parse(await readFile(path, "utf8")));
  } catch (cause) {
    throw new Error(`${path} is not a benchmark result: ${(cause as Error).message}`, { cause });
  }
}
