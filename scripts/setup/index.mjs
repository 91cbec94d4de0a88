import { existsSync } from "node:fs";
import { availableParallelism } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { findNvcc } from "../../native/scripts/nvcc.mjs";
import { SetupError } from "./error.mjs";
import { takeTurn } from "./lock.mjs";
import { installPackages } from "./packages.mjs";
import { PhaseLine, runLogged } from "./phase.mjs";
import { checkRequirements } from "./requirements.mjs";

/** The repository. */
export const root = dirname(dirname(dirname(fileURLToPath(import.meta.url))));

/** Arguments of node that run a turbo command. @param {string[]} args */
export function turbo(args) {
  const flags = ["--cache=local:rw", "--no-update-notifier", ...(process.stdout.isTTY ? [] : ["--no-color"])];
  return [join(root, "node_modules", "turbo", "bin", "turbo"), "run", ...args, ...flags];
}

/** Whether arguments or environment ask for a CUDA device. @param {string[]} args @param {NodeJS.ProcessEnv} environment */
export function wantsCuda(args, environment) {
  const at = args.findLastIndex((argument) => argument === "--device" || argument.startsWith("--device="));
  const flag = args[at]?.includes("=") ? args[at].slice("--device=".length) : args[at + 1];
  return ((at >= 0 ? flag : environment.TREFOIL_DEVICE) ?? "").startsWith("cuda");
}

/**
 * Brings a fresh clone, or a changed one, to the point where everything is built. What is up to date is not done again.
 * @param {{ cuda?: boolean }} [options] cuda: the CUDA library too, which takes minutes the first time
 * @returns {Promise<NodeJS.ProcessEnv>} the environment to run turbo and the packages in
 */
export async function setUp({ cuda = false } = {}) {
  const packed = existsSync(join(root, "packed.json"));
  if (!packed) new PhaseLine("requirements").done(checkRequirements(process.env));
  const giveBack = await takeTurn(join(root, "node_modules", ".trefoil", "lock"));
  try {
    return packed ? await buildPacked(cuda) : await buildClone(cuda);
  } finally {
    giveBack();
  }
}

/** @param {boolean} cuda */
async function buildClone(cuda) {
  const environment = await installPackages(root, {
    ...process.env,
    TURBO_TELEMETRY_DISABLED: "1",
    // What build:cuda did is remembered for this compiler, or for none.
    TREFOIL_NVCC: findNvcc()?.version.join(".") ?? "none",
    ...(process.stdout.isTTY ? {} : { NO_COLOR: "1" }),
    CMAKE_BUILD_PARALLEL_LEVEL: process.env.CMAKE_BUILD_PARALLEL_LEVEL ?? String(availableParallelism()),
  });
  const build = new PhaseLine("build", "native engine and TypeScript");
  try {
    const output = await runLogged({
      file: process.execPath,
      args: turbo(["build:native", "build", ...(cuda ? ["build:cuda"] : []), "--output-logs=new-only"]),
      cwd: root,
      env: environment,
      log: join(root, "node_modules", ".trefoil", "build.log"),
      failure: (text, log) => new SetupError(`The build failed; the end of its log above (${log}) says where.`, text),
    });
    build.done(/FULL TURBO/.test(output) ? "up to date" : "built");
    return environment;
  } catch (error) {
    build.failed();
    throw error;
  }
}

/** A copy made by scripts/pack.mjs: all but the machine code is there. @param {boolean} cuda */
async function buildPacked(cuda) {
  const build = new PhaseLine("build", "native engine");
  try {
    for (const script of ["build.mjs", ...(cuda ? ["build-cuda.mjs"] : [])])
      await runLogged({
        file: process.execPath,
        args: [join(root, "native", "scripts", script)],
        cwd: root,
        env: process.env,
        log: join(root, "node_modules", ".trefoil", "build.log"),
        failure: (text, log) => new SetupError(`The build failed; the end of its log above (${log}) says where.`, text),
      });
    build.done("built");
    return process.env;
  } catch (error) {
    build.failed();
    throw error;
  }
}

/**
 * Runs the body of a script; a `SetupError` is printed as its log's end and its sentence, and ends the process with 1.
 * @param {() => Promise<number>} body resolves with the exit status
 */
export async function main(body) {
  try {
    process.exitCode = await body();
  } catch (error) {
    if (["EACCES", "EPERM", "EROFS", "ENOSPC", "EDQUOT"].includes(error.code)) {
      console.error(
        `Set-up writes into ${root}, and could not (${error.message}): make room there, or use a checkout that you may write to.`,
      );
      process.exitCode = 1;
      return;
    }
    if (!(error instanceof SetupError)) throw error;
    if (error.log) console.error(`${error.log.trimEnd().split("\n").slice(-40).join("\n")}\n`);
    console.error(error.message);
    process.exitCode = 1;
  }
}
