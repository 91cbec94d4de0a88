import { execFile } from "node:child_process";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { BenchError } from "../errors.js";

const run = promisify(execFile);
const source = fileURLToPath(new URL("../../native", import.meta.url));

/** Builds the C++ programs under `native/` if they are not up to date. @returns a function from name to path */
export async function buildNativePrograms(): Promise<(program: string) => string> {
  const folder = join(source, "build");
  try {
    await run("cmake", ["-S", source, "-B", folder, "-DCMAKE_BUILD_TYPE=Release"]);
    await run("cmake", ["--build", folder, "--config", "Release"]);
  } catch (cause) {
    const output = (cause as { stderr?: string }).stderr?.trim().split("\n").slice(-8).join("\n");
    throw new BenchError(
      "BENCH_BUILD",
      `the benchmark programs under ${source} could not be built: install CMake and a C++20 compiler\n${output ?? ""}`,
      { cause },
    );
  }
  return (program) => join(folder, program);
}
