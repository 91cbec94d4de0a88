// Builds libtrefoil_cuda where nvcc 12.4 or newer is found; elsewhere says so in one line. nvcc: CUDACXX, PATH, CUDA_HOME, /usr/local/cuda.
import { spawnSync } from "node:child_process";
import { accessSync, constants } from "node:fs";
import { availableParallelism } from "node:os";
import { delimiter, dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const native = dirname(dirname(fileURLToPath(import.meta.url)));
const build = join(native, "build-cuda");
const oldest = [12, 4];

function executable(path) {
  try {
    accessSync(path, constants.X_OK);
    return true;
  } catch {
    return false;
  }
}

/** The first nvcc, with its version as [major, minor]. */
function findNvcc() {
  const folders = (process.env.PATH ?? "").split(delimiter).filter(Boolean);
  const homes = [process.env.CUDA_HOME, "/usr/local/cuda"].filter(Boolean);
  const candidates = [
    process.env.CUDACXX,
    ...folders.map((folder) => join(folder, "nvcc")),
    ...homes.map((home) => join(home, "bin", "nvcc")),
  ];
  for (const path of candidates) {
    if (!path || !executable(path)) continue;
    const found = /release (\d+)\.(\d+)/.exec(spawnSync(path, ["--version"], { encoding: "utf8" }).stdout ?? "");
    if (found) return { path, version: [Number(found[1]), Number(found[2])] };
  }
  return undefined;
}

function run(args) {
  const result = spawnSync("cmake", args, { stdio: process.stdout.isTTY ? "inherit" : "pipe", maxBuffer: 1 << 28 });
  if (result.status === 0) return;
  process.stderr.write(`${result.error?.message ?? ""}${result.stdout ?? ""}${result.stderr ?? ""}`);
  process.exit(result.status ?? 1);
}

const nvcc = findNvcc();
const version = nvcc?.version.join(".");
if (!nvcc) {
  console.log("CUDA backend: not built, there is no nvcc here.");
} else if (nvcc.version[0] < oldest[0] || (nvcc.version[0] === oldest[0] && nvcc.version[1] < oldest[1])) {
  console.log(`CUDA backend: not built, nvcc is ${version} and ${oldest.join(".")} or newer is needed.`);
} else {
  const jobs = process.env.CMAKE_BUILD_PARALLEL_LEVEL || String(availableParallelism());
  run(["-S", join(native, "src", "cuda"), "-B", build, `-DCMAKE_CUDA_COMPILER=${nvcc.path}`]);
  run(["--build", build, "--parallel", jobs]);
  console.log(`CUDA backend: built with nvcc ${version}.`);
}
