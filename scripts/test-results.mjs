import { existsSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { join } from "node:path";

/** Tasks that test, and the file each leaves in its package; turbo restores it when it replays a task. */
const resultFiles = { test: "vitest.json", "test:native": "native.json" };

/** Packages of the workspace with a task that tests. @param {string} root */
function testTasks(root) {
  const packages = readdirSync(join(root, "packages")).map((name) => join("packages", name));
  return ["native", "benchmarks", "tests", ...packages].flatMap((folder) => {
    const manifest = join(root, folder, "package.json");
    if (!existsSync(manifest)) return [];
    const { scripts = {} } = JSON.parse(readFileSync(manifest, "utf8"));
    return Object.entries(resultFiles)
      .filter(([task]) => task in scripts)
      .map(([task, file]) => ({ name: `${folder} ${task}`, path: join(root, folder, "test-results", file) }));
  });
}

/** Forgets the last run, so that a task that dies without a result cannot pass for an old one. @param {string} root */
export function clearResults(root) {
  for (const { path } of testTasks(root)) rmSync(path, { force: true });
}

/** @param {{ path: string }} task @returns {{ passed: number, failed: number, skipped: number, broken: boolean }} */
function readResult({ path }) {
  const result = JSON.parse(readFileSync(path, "utf8"));
  if (!("numTotalTests" in result)) return { skipped: 0, broken: false, ...result };
  const { numPassedTests: passed, numFailedTests: failed, numPendingTests: skipped, success } = result;
  return { passed, failed, skipped, broken: !success && failed === 0 };
}

/**
 * Sums what the tasks left. A task without a result, and one that failed outside any test (a file that does not load),
 * count as one failure each and are printed.
 * @param {string} root
 */
export function readResults(root) {
  const total = { passed: 0, failed: 0, skipped: 0 };
  for (const task of testTasks(root)) {
    const found = existsSync(task.path);
    const { passed, failed, skipped, broken } = found
      ? readResult(task)
      : { passed: 0, failed: 0, skipped: 0, broken: true };
    if (broken) console.log(`${task.name}: ${found ? "failed outside its tests" : "left no result"}`);
    total.passed += passed;
    total.failed += failed + (broken ? 1 : 0);
    total.skipped += skipped;
  }
  return total;
}

// As a program: prints the counts of the last run for .ci/run, "<passed> <failed>".
if (process.argv[1] === import.meta.filename) {
  const { passed, failed } = readResults(process.argv[2] ?? ".");
  console.log(`${passed} ${failed}`);
}
