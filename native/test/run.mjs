// Runs the C++ tests and the check of the objects' symbols, and leaves their counts in test-results/native.json.
import { spawn } from "node:child_process";
import { mkdirSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const native = dirname(dirname(fileURLToPath(import.meta.url)));
const build = join(native, "build");
const results = join(native, "test-results", "native.json");

/** Runs a program with its output shown; resolves with that output and whether it ended well. */
function run(file, args) {
  return new Promise((resolve) => {
    const child = spawn(file, args, { stdio: ["ignore", "pipe", "inherit"] });
    let output = "";
    child.stdout.setEncoding("utf8").on("data", (text) => {
      output += text;
      process.stdout.write(text);
    });
    child.on("error", (error) => console.error(`${file} did not start: ${error.message}`));
    child.on("close", (code, signal) => {
      if (signal) console.error(`${file} was ended by ${signal}`);
      resolve({ output, ok: code === 0 });
    });
  });
}

/** Counts by the pattern of a summary line. A crash leaves no such line, and a run of no tests proves nothing: one failure. */
function count({ output, ok }, pattern) {
  const { passed = "0", failed = "0" } = pattern.exec(output)?.groups ?? {};
  return { passed: Number(passed), failed: Math.max(Number(failed), ok ? 0 : 1) };
}

rmSync(results, { force: true });
const summary = /^(?<passed>\d+) passed, (?<failed>\d+) failed$/m;
const program = join(build, "trefoil_tests");
const tests = count(await run(program, process.argv.slice(2)), summary);
console.log("CUDA kernels, emulated:");
const shards = await Promise.all(
  [0, 1].map((shard) => run(program, ["--backend=emulated", `--shard=${shard}/2`, ...process.argv.slice(2)])),
);
// A name on the command line may leave one of two shards without a test.
const cuda = shards
  .map((shard) => count(process.argv.length > 2 ? { ...shard, ok: true } : shard, summary))
  .reduce((a, b) => ({ passed: a.passed + b.passed, failed: a.failed + b.failed }));
const symbols = await run("ctest", ["--test-dir", build, "--output-on-failure", "-R", "symbols"]);
const passed = tests.passed + cuda.passed + (symbols.ok ? 1 : 0);
const failed = tests.failed + cuda.failed + (symbols.ok ? 0 : 1);
mkdirSync(dirname(results), { recursive: true });
writeFileSync(results, `${JSON.stringify({ passed, failed })}\n`);
process.exitCode = failed === 0 ? 0 : 1;
