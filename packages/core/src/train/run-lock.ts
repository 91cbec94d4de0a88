import { createHash } from "node:crypto";
import { readFileSync, unlinkSync } from "node:fs";
import { link, readFile, rm, unlink, writeFile } from "node:fs/promises";
import { hostname } from "node:os";
import { setTimeout } from "node:timers/promises";
import { RunDirectoryError } from "./errors.js";

interface LockOwner {
  readonly pid: number;
  readonly host: string;
  /** When the process started, so that a later process with the same number is not taken for it. */
  readonly processStart: string | undefined;
  readonly since: string;
}

/** A claim left by a process that was killed while it held one must not make others wait for ever. */
const maxTries = 200;

/**
 * Takes the lock file at `path`; the result releases it. A lock whose process is gone is taken over.
 * @throws RunDirectoryError RUN_DIRECTORY_LOCKED naming the process that holds it.
 */
export async function lockDirectory(path: string, now: Date): Promise<() => Promise<void>> {
  const owner: LockOwner = {
    pid: process.pid,
    host: hostname(),
    processStart: processStart(process.pid),
    since: now.toISOString(),
  };
  const text = JSON.stringify(owner);
  for (let tries = 1; !(await createLock(path, text)); tries++) {
    const held = await readLock(path);
    if (held === undefined) continue;
    if (!isStale(held) || tries > maxTries) throw lockedError(path, held);
    await removeStale(path, held);
  }
  const releaseNow = () => {
    try {
      if (readFileSync(path, "utf8") === text) unlinkSync(path);
    } catch {
      // The directory may be gone by now; there is nothing left to release.
    }
  };
  process.once("exit", releaseNow);
  return async () => {
    process.off("exit", releaseNow);
    releaseNow();
  };
}

async function createLock(path: string, text: string): Promise<boolean> {
  try {
    await writeFile(path, text, { flag: "wx" });
    return true;
  } catch (error) {
    if (codeOf(error) === "EEXIST") return false;
    throw error;
  }
}

/**
 * Removes a stale lock. Only who claims it may: the claim is a hard link named after the lock's text, and of many only one can
 * make it. So a lock that replaced the stale one meanwhile is never removed.
 */
async function removeStale(path: string, stale: string): Promise<void> {
  const claim = `${path}.stale.${createHash("sha256").update(stale).digest("hex").slice(0, 16)}`;
  try {
    await link(path, claim);
  } catch (error) {
    if (codeOf(error) === "ENOENT") return;
    if (codeOf(error) !== "EEXIST") throw error;
    // Somebody else is removing it, within milliseconds.
    await setTimeout(5);
    return;
  }
  try {
    if ((await readFile(claim, "utf8")) === stale) await unlink(path);
  } finally {
    await rm(claim, { force: true });
  }
}

async function readLock(path: string): Promise<string | undefined> {
  try {
    return await readFile(path, "utf8");
  } catch (error) {
    if (codeOf(error) === "ENOENT") return undefined;
    throw error;
  }
}

function codeOf(error: unknown): string | undefined {
  return (error as NodeJS.ErrnoException).code;
}

function parseOwner(text: string): LockOwner | undefined {
  try {
    const owner = JSON.parse(text) as Partial<LockOwner>;
    return typeof owner.pid === "number" && typeof owner.host === "string" ? (owner as LockOwner) : undefined;
  } catch {
    return undefined;
  }
}

function isStale(text: string): boolean {
  const owner = parseOwner(text);
  // Another machine's processes cannot be looked up: its lock counts as held.
  if (owner === undefined || owner.host !== hostname()) return false;
  if (!isAlive(owner.pid)) return true;
  const start = processStart(owner.pid);
  return owner.processStart !== undefined && start !== undefined && start !== owner.processStart;
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    // EPERM: it lives, but belongs to somebody else.
    return codeOf(error) === "EPERM";
  }
}

/** Start time in clock ticks since boot, field 22 of /proc/PID/stat; undefined where there is no /proc. */
function processStart(pid: number): string | undefined {
  try {
    // The second field is the command in parentheses and may itself hold spaces.
    return readFileSync(`/proc/${pid}/stat`, "utf8").split(") ").at(-1)?.split(" ")[19];
  } catch {
    return undefined;
  }
}

function lockedError(path: string, text: string): RunDirectoryError {
  const owner = parseOwner(text);
  const who =
    owner === undefined ? "an unknown process" : `process ${owner.pid} on ${owner.host}, since ${owner.since}`;
  const message = `the run is being written by ${who}; wait for it, or delete ${path} if that run is over`;
  return new RunDirectoryError("RUN_DIRECTORY_LOCKED", message);
}
