import { existsSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { type Report, reasonOf, writeFileAtomic, writeReport } from "@trefoil/core";
import { BenchError } from "../errors.js";
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
  const base = join(folder, `${result.date.slice(0, 10)}-${slug(result.machine.cpu)}`);
  let path = base;
  for (let run = 2; existsSync(`${path}.json`); run++) path = `${base}-${run}`;
  const [json, html] = [`${path}.json`, `${path}.html`];
  await writeFileAtomic(json, `${JSON.stringify(resultSchema.parse(result), null, 1)}\n`);
  await writeReport(html, page);
  return { json, html };
}

/** @throws BenchError saying what in the file is not a result of this version */
export async function readResult(path: string): Promise<Result> {
  try {
    return resultSchema.parse(JSON.parse(await readFile(path, "utf8")));
  } catch (cause) {
    const reason = `${path} is not a result that this version of the benchmarks wrote (${reasonOf(cause)})`;
    throw new BenchError("BENCH_RESULT", `${reason}: name a .json that it did`, { cause });
  }
}
