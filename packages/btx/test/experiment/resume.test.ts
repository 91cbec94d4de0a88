import { spawn } from "node:child_process";
import { once } from "node:events";
import { appendFileSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { expect, it } from "vitest";
import { type ResultRow, readResults } from "../../src/experiment/index.js";
import { temporaryFolder } from "../checkpoints.js";

const cli = fileURLToPath(new URL("../../dist/cli.js", import.meta.url));
const tiny =
  "--model.hidden-size 16 --model.intermediate-size 24 --model.heads 2 --model.key-value-heads 2 --model.max-positions 32 --small --shares 0.5 --workers 1 --seeds 1 --steps 4 --seed-steps 2 --batch 4 --sequence 32 --windows 4 --problems 0 --max-bytes 60000";

/** Runs the experiment, and kills it when it has so many results. */
async function reproduce(output: string, { rows = Number.POSITIVE_INFINITY, flags = tiny.split(" ") } = {}) {
  const child = spawn(process.execPath, [cli, "reproduce", "--output", output, ...flags], { stdio: "pipe" });
  const written = { stdout: "", stderr: "" };
  for (const name of ["stdout", "stderr"] as const)
    child[name].on("data", (chunk) => {
      written[name] += chunk;
    });
  const timer = setInterval(async () => {
    if (Number.isFinite(rows) && (await readResults(output)).length >= rows) child.kill("SIGKILL");
  }, 5);
  const [code, signal] = (await once(child, "close")) as [number | null, NodeJS.Signals | null];
  clearInterval(timer);
  return { code, signal, ...written };
}

it("killed and begun again, the experiment ends with the results of one that never was", async () => {
  const folder = temporaryFolder();
  const [whole, killed] = [join(folder, "whole"), join(folder, "killed")];
  expect(await reproduce(whole)).toMatchObject({ code: 0 });
  for (const rows of [2, 9]) {
    expect(await reproduce(killed, { rows })).toMatchObject({ signal: "SIGKILL" });
    // A line torn by the kill.
    appendFileSync(join(killed, "results.jsonl"), '\n{"arm":"seed","se');
  }
  const before = await readResults(killed);
  const last = await reproduce(killed);
  expect(last.code, last.stderr).toBe(0);
  const after = await readResults(killed);
  // What was there stands, and no arm has a second line.
  expect(after.slice(0, before.length)).toEqual(before);
  const keys = after.map(({ arm, seed }) => `${arm} ${seed}`);
  expect(new Set(keys).size).toBe(keys.length);
  const expected = await readResults(whole);
  expect(keys).toEqual(expected.map(({ arm, seed }) => `${arm} ${seed}`));
  // Seconds are measured, and decide how long arms of equal time train.
  const repeatable = (rows: ResultRow[]) =>
    rows.filter(({ arm }) => !arm.includes("time")).map(({ seconds, work, ...rest }) => rest);
  expect(repeatable(after)).toEqual(repeatable(expected));

  const summary = await reproduce(killed, { flags: ["--summary"] });
  expect(summary.stdout).toMatch(
    new RegExp(
      `All ${keys.length} arms of 1 seeds are done\\. It took \\d+\\.\\d minutes, and \\d+\\.\\d of CPU time\\.`,
    ),
  );
  expect(summary.stdout).toBe(readFileSync(join(killed, "summary.md"), "utf8"));
  // Rows of a version that did not say when an arm was worked on.
  const older = after.map(({ work, ...row }) => `${JSON.stringify(row)}\n`);
  writeFileSync(join(killed, "results.jsonl"), older.join(""));
  expect((await reproduce(killed, { flags: ["--summary"] })).stdout).toBe(summary.stdout.replace(/ It took .*/, ""));
  const other = await reproduce(killed, { flags: [...tiny.split(" "), "--steps", "5"] });
  expect(other.code).not.toBe(0);
  expect(other.stderr).toContain("results with steps 4, not 5");
}, 240_000);
