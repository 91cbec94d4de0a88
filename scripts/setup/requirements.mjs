import { spawnSync } from "node:child_process";
import { SetupError } from "./error.mjs";
import { findExecutable } from "./executable.mjs";

const minimumCMake = [3, 20];

// What the engine's sources need of a C++20 compiler and its library.
const cxx20Probe = `#include <concepts>
#include <span>
template <std::integral T> T first(std::span<const T> values) { return values[0]; }
int main() { const int values[] = {0}; return first(std::span<const int>(values)); }
`;

const installCommands = {
  cmake: {
    darwin: "`brew install cmake`",
    linux:
      "`sudo apt install cmake` on Debian or Ubuntu, `sudo dnf install cmake` on Fedora, `pip install cmake` anywhere",
  },
  compiler: {
    darwin: "`xcode-select --install`",
    linux: "`sudo apt install g++` on Debian or Ubuntu, `sudo dnf install gcc-c++` on Fedora",
  },
  make: {
    darwin: "`xcode-select --install`",
    linux: "`sudo apt install make` on Debian or Ubuntu, `sudo dnf install make` on Fedora",
  },
};

/** @param {keyof typeof installCommands} tool */
function installCommand(tool) {
  return installCommands[tool][process.platform === "darwin" ? "darwin" : "linux"];
}

/** @param {string} file @param {string[]} args @param {NodeJS.ProcessEnv} environment @param {string} [input] */
function output(file, args, environment, input) {
  const result = spawnSync(file, args, {
    env: environment,
    encoding: "utf8",
    ...(input === undefined ? {} : { input }),
  });
  return { ok: result.status === 0, text: `${result.stdout ?? ""}${result.stderr ?? ""}` };
}

/** @param {NodeJS.ProcessEnv} environment */
function checkCMake(environment) {
  const cmake = findExecutable("cmake", environment);
  if (!cmake) throw new SetupError(`CMake was not found: install CMake 3.20 or newer, ${installCommand("cmake")}.`);
  const version = /(\d+)\.(\d+)\.(\d+)/.exec(output(cmake, ["--version"], environment).text);
  const [major, minor] = [Number(version?.[1] ?? 0), Number(version?.[2] ?? 0)];
  if (major < minimumCMake[0] || (major === minimumCMake[0] && minor < minimumCMake[1])) {
    const found = version?.[0] ?? `of unknown version (${cmake})`;
    throw new SetupError(`CMake ${found} is too old: install CMake 3.20 or newer, ${installCommand("cmake")}.`);
  }
  return `CMake ${version?.[0]}`;
}

/** The compiler that CMake will take: CXX, else the first of these names on PATH. @param {NodeJS.ProcessEnv} environment */
function checkCompiler(environment) {
  // CXX may carry a launcher and flags ("ccache g++").
  const named = environment.CXX?.trim().split(/\s+/);
  const [program, ...flags] = named?.[0]
    ? named
    : ["c++", "g++", "clang++"].filter((name) => findExecutable(name, environment)).slice(0, 1);
  if (!program) {
    throw new SetupError(
      `No C++ compiler was found: install one that knows C++20 (GCC 11, Clang 14 or newer), ${installCommand("compiler")}.`,
    );
  }
  const compiler = findExecutable(program, environment);
  if (!compiler) {
    throw new SetupError(
      `CXX names \`${program}\`, which is not on this machine: unset CXX, or install that compiler, ${installCommand("compiler")}.`,
    );
  }
  const probe = output(compiler, [...flags, "-std=c++20", "-fsyntax-only", "-x", "c++", "-"], environment, cxx20Probe);
  if (!probe.ok) {
    throw new SetupError(
      `The C++ compiler \`${program}\` cannot compile C++20: install GCC 11, Clang 14 or newer, ${installCommand("compiler")}, or name another in CXX.`,
    );
  }
  const version = output(compiler, [...flags, "-dumpversion"], environment).text.trim();
  return `${program} ${version}`.trim();
}

/**
 * Checks what npm cannot install. Throws a `SetupError` with one sentence for the first thing that is missing.
 * @param {NodeJS.ProcessEnv} environment
 * @returns {string} what was found, for the user
 */
export function checkRequirements(environment) {
  if (process.platform === "win32") {
    throw new SetupError(
      "Trefoil's engine builds on Linux and macOS: on Windows run it inside WSL (`wsl --install`, then start again there).",
    );
  }
  const cmake = checkCMake(environment);
  const compiler = checkCompiler(environment);
  if (!findExecutable("ninja", environment) && !findExecutable("make", environment)) {
    throw new SetupError(`Neither make nor ninja was found, and CMake needs one of them: ${installCommand("make")}.`);
  }
  return `Node ${process.versions.node}, ${cmake}, ${compiler}`;
}
