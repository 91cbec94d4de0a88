// build.mjs [target …]: configures through cmake-js (offline: node-api-headers) and builds on every core. Default: the addon.
// Output is shown live on a terminal, and elsewhere only where something fails.
import { spawnSync } from "node:child_process";
import { createRequire } from "node:module";
import { availableParallelism } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { configure } from "./configure.mjs";

const native = dirname(dirname(fileURLToPath(import.meta.url)));
const cmakeJs = createRequire(import.meta.url).resolve("cmake-js/bin/cmake-js");
const targets = process.argv.length > 2 ? process.argv.slice(2) : ["trefoil_addon"];
const jobs = process.env.CMAKE_BUILD_PARALLEL_LEVEL || String(availableParallelism());

function run(command, args, live) {
  return spawnSync(command, args, { cwd: native, stdio: live ? "inherit" : "pipe", maxBuffer: 1 << 28 });
}

function succeed(result, live) {
  if (result.status === 0) return;
  if (result.error) console.error(result.error.message);
  if (!live) process.stderr.write(`${result.stdout ?? ""}${result.stderr ?? ""}`);
  process.exit(result.status ?? 1);
}

// Always configured anew (under a second): cmake-js passes paths of the package store that move with an update.
const configured = configure(join(native, "build"), () =>
  run(process.execPath, [cmakeJs, "configure", "--out", "build", "--log-level", "error"], false),
);
succeed(configured, false);
const live = process.stdout.isTTY;
const build = ["--build", "build", "--config", "Release", "--parallel", jobs, "--target", ...targets];
succeed(run("cmake", build, live), live);
