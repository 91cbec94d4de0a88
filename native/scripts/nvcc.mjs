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

export const oldestNvcc = [12, 4];

/** @param {number[]} version */
export const isNewEnough = ([major, minor]) =>
  major > oldestNvcc[0] || (major === oldestNvcc[0] && minor >= oldestNvcc[1]);

/**
 * The first nvcc that is new enough, with its version as [major, minor]: a distribution's own on PATH is often older than the toolkit beside
 * it. Else the first of all; undefined if there is none.
 */
export function findNvcc() {
  const folders = (process.env.PATH ?? "").split(delimiter).filter(Boolean);
  const homes = [process.env.CUDA_HOME, "/usr/local/cuda"].filter(Boolean);
  const candidates = [
    process.env.CUDACXX,
    ...folders.map((folder) => join(folder, "nvcc")),
    ...homes.map((home) => join(home, "bin", "nvcc")),
  ];
  let first;
  for (const path of candidates) {
    if (!path || !executable(path)) continue;
    const found = /release (\d+)\.(\d+)/.exec(spawnSync(path, ["--version"], { encoding: "utf8" }).stdout ?? "");
    if (!found) continue;
    const nvcc = { path, version: [Number(found[1]), Number(found[2])] };
    if (isNewEnough(nvcc.version)) return nvcc;
    first ??= nvcc;
  }
  return first;
}
