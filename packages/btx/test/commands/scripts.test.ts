import { spawnSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { availableParallelism } from "node:os";
import { join } from "node:path";
import { expect, it } from "vitest";

const packageFolder = join(import.meta.dirname, "../..");

/** In small, for each measurement that the README names: what is given, and what it prints. */
const small: Record<string, [args: readonly string[], printed: RegExp]> = {
  "branches-side-by-side.mjs": [["1", "1"], /^round 1: one .*\ntwo on two cores: \d\.\d{3} × one on one core/],
  "merge-speed.mjs": [
    ["--gigabytes", "0", "--vocabulary", "1000", "--rounds", "1", "--dtype", "BF16"],
    /^round 1: first .*\nfour checkpoints of 30 MB, BF16, into 82 MB[\s\S]*\npeak memory /,
  ],
};

it("has a test for every script that the README names", () => {
  const readme = readFileSync(join(packageFolder, "README.md"), "utf8");
  const named = [...readme.matchAll(/node scripts\/([\w-]+\.mjs)/g)].map(([, name]) => name);
  expect(named.sort()).toEqual(Object.keys(small).sort());
});

// Both need Linux (taskset, sync -f), and two cores to compare.
const measurable = process.platform === "linux" && availableParallelism() > 1;

it.runIf(measurable).each(Object.entries(small))(
  "%s measures",
  (name, [args, printed]) => {
    const result = spawnSync(process.execPath, [join(packageFolder, "scripts", name), ...args], { encoding: "utf8" });
    expect(result.status, result.stderr).toBe(0);
    expect(result.stdout).toMatch(printed);
  },
  120_000,
);
