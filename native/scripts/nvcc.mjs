// Where nvcc is: CUDACXX, PATH, CUDA_HOME, /usr/local/cuda.
import { spawnSync } from "node:child_process";
import { accessSync, constants } from "node:fs";
import { delimiter, join } from "node:path";

function executable(path) {
  try {
    accessSync(path, constants.X_OK);
    return true;
  } catch {
    return false;
  }
}

/** The first nvcc, with its version as [major, minor]; undefined if there is none. */
export function findNvcc() {
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
