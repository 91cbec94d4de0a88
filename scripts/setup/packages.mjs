import { spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { readFileSync, writeFileSync } from "node:fs";
import { delimiter, dirname, join } from "node:path";
import { SetupError } from "./error.mjs";
import { findExecutable } from "./executable.mjs";
import { PhaseLine, runLogged } from "./phase.mjs";

const networkFailure =
  /ENOTFOUND|EAI_AGAIN|ECONNREFUSED|ECONNRESET|ETIMEDOUT|ENETUNREACH|EHOSTUNREACH|ERR_SOCKET_TIMEOUT|META_FETCH_FAIL|error sending request|dns error|network/i;

/** Two quick tries instead of minutes of them where there is no network; npm and pnpm read different names. */
const fewRetries = Object.fromEntries(
  Object.entries({ fetch_retries: "1", fetch_retry_mintimeout: "2000", fetch_retry_maxtimeout: "5000" }).flatMap(
    ([name, value]) => ["npm", "pnpm"].map((program) => [`${program}_config_${name}`, value]),
  ),
);

/** @param {string} what @param {string} output @param {string} log its file */
function installFailure(what, output, log) {
  return networkFailure.test(output)
    ? new SetupError(
        `${what} could not be downloaded because the npm registry was not reached: connect to the network (or set the proxy with \`npm config set proxy\`) and run this again.`,
      )
    : new SetupError(`${what} could not be installed; the end of the log above (${log}) says why.`, output);
}

/**
 * The folder of a pnpm that fits `packageManager`: on PATH, where the last set-up found it, or fetched through npx.
 * @param {string} root @param {string} wanted the pinned version @param {string | undefined} remembered
 * @param {NodeJS.ProcessEnv} environment @returns {Promise<string>}
 */
async function locatePnpm(root, wanted, remembered, environment) {
  const onPath = findExecutable("pnpm", environment);
  if (onPath) {
    const version = spawnSync(onPath, ["--version"], { cwd: root, env: environment, encoding: "utf8" }).stdout?.trim();
    if (version === wanted) return dirname(onPath);
  }
  if (remembered && findExecutable(join(remembered, "pnpm"), environment)) return remembered;
  const npx = findExecutable("npx", environment);
  if (!npx)
    throw new SetupError(
      `Neither pnpm ${wanted} nor npx was found: install npm, which comes with Node from https://nodejs.org.`,
    );
  // npx puts the package's folder of programs on PATH: asked for once, it then works without npx and without a network.
  const output = await runLogged({
    file: npx,
    args: ["--yes", `--package=pnpm@${wanted}`, "--", "node", "-p", "'PATH=' + process.env.PATH"],
    cwd: root,
    env: { ...environment, ...fewRetries },
    log: join(root, "node_modules", ".trefoil", "pnpm.log"),
    failure: (text, log) => installFailure(`pnpm ${wanted}`, text, log),
  });
  const path = /^PATH=(.*)$/m.exec(output)?.[1] ?? "";
  const found = path.split(delimiter).find((directory) => findExecutable(join(directory, "pnpm"), environment));
  if (!found)
    throw new SetupError(
      `npx fetched no working pnpm ${wanted}: install it with \`npm install --global pnpm@${wanted}\`.`,
      output,
    );
  return found;
}

/** What the last set-up left; nothing where it was interrupted while it wrote. @param {string} path */
function readStamp(path) {
  try {
    return JSON.parse(readFileSync(path, "utf8")) ?? {};
  } catch {
    return {};
  }
}

/**
 * Installs the packages of the lockfile unless the last set-up did. Returns the environment in which pnpm and turbo run.
 * @param {string} root the repository @param {NodeJS.ProcessEnv} environment
 * @returns {Promise<NodeJS.ProcessEnv>}
 */
export async function installPackages(root, environment) {
  const wanted = JSON.parse(readFileSync(join(root, "package.json"), "utf8"))
    .packageManager.split("@")[1]
    .split("+")[0];
  const hash = createHash("sha256");
  for (const name of ["pnpm-lock.yaml", "pnpm-workspace.yaml"]) hash.update(readFileSync(join(root, name)));
  const lockfile = hash.digest("hex");

  const stampPath = join(root, "node_modules", ".trefoil", "setup.json");
  const stamp = readStamp(stampPath);
  const fresh = stamp.lockfile === lockfile;
  const line = new PhaseLine("packages", fresh ? undefined : "installing");
  try {
    const pnpm = await locatePnpm(root, wanted, stamp.pnpm, environment);
    const path = [pnpm, environment.PATH].join(delimiter);
    if (!fresh) {
      await runLogged({
        file: join(pnpm, "pnpm"),
        args: ["install", "--frozen-lockfile"],
        cwd: root,
        // CI: pnpm asks no questions.
        env: { ...environment, ...fewRetries, PATH: path, CI: "true" },
        log: join(root, "node_modules", ".trefoil", "install.log"),
        failure: (text, log) => installFailure("The packages", text, log),
      });
    }
    writeFileSync(stampPath, JSON.stringify({ lockfile, pnpm }));
    line.done(fresh ? "up to date" : "installed");
    return { ...environment, PATH: path };
  } catch (error) {
    line.failed();
    throw error;
  }
}
