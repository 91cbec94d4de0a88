// Builds libtrefoil_cuda where nvcc 12.4 or newer is found; elsewhere says so in one line.
import { spawnSync } from "node:child_process";
import { availableParallelism } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { configure } from "./configure.mjs";
import { findNvcc, isNewEnough, oldestNvcc } from "./nvcc.mjs";

const native = dirname(dirname(fileURLToPath(import.meta.url)));
const build = join(native, "build-cuda");

function run(args) {
  return spawnSync("cmake", args, { stdio: process.stdout.isTTY ? "inherit" : "pipe", maxBuffer: 1 << 28 });
}

function succeed(result) {
  if (result.status === 0) return;
  process.stderr.write(`${result.error?.message ?? ""}${result.stdout ?? ""}${result.stderr ?? ""}`);
  process.exit(result.status ?? 1);
}

const nvcc = findNvcc();
const version = nvcc?.version.join(".");
if (!nvcc) {
  console.log("CUDA backend: not built, there is no nvcc here.");
} else if (!isNewEnough(nvcc.version)) {
  console.log(`CUDA backend: not built, nvcc is ${version} and ${oldestNvcc.join(".")} or newer is needed.`);
} else {
  const jobs = process.env.CMAKE_BUILD_PARALLEL_LEVEL || String(availableParallelism());
  const strict = `-DTREFOIL_WARNINGS_AS_ERRORS=${process.env.CI ? "ON" : "OFF"}`;
  const options = [`-DCMAKE_CUDA_COMPILER=${nvcc.path}`, strict];
  succeed(configure(build, () => run(["-S", join(native, "src", "cuda"), "-B", build, ...options])));
  succeed(run(["--build", build, "--parallel", jobs]));
  console.log(`CUDA backend: built with nvcc ${version}.`);
}
