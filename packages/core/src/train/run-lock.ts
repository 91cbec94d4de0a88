import { createHash } from "node:crypto";
import { readFileSync, unlinkSync } from "node:fs";
import { link, readFile, rm, unlink, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout } from "node:timers/promises";
import { isOwnerGone, type ProcessOwner, parseOwner, thisProcess } from "../io/process-owner.js";
import { RunDirectoryError } from "./errors.js";
import { RUN_LAYOUT } from "./run-layout.js";

/** A claim left by a process that was killed while it held one must not make others wait for ever. */
const maxTries = 200;

/**
 * Takes the lock file at `path`; the result releases it. A lock whose process is gone is taken over.
 * @throws RunDirectoryError RUN_DIRECTORY_LOCKED naming the process that holds it.
 */
export async function lockDirectory(path: string, now: Date): Promise<() => Promise<void>> {
  const text = JSON.stringify(thisProcess(now));
  for (let tries = 1; !(await createLock(path, text)); tries++) {
    const held = await readLock(path);
    if (held === undefined) continue;
    if (!isOwnerGone(held) || tries > maxTries) throw lockedError(path, held);
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

/** Who holds the lock of a run directory. */
export interface RunOwner extends Pick<ProcessOwner, "pid" | "host" | "since"> {
  /** Whether the process is gone for certain: it was killed. Of another machine nothing is certain. */
  readonly gone: boolean;
}

/** The process that writes to a run directory, or was killed doing so; undefined when nobody holds the lock. */
export async function runOwner(directory: string): Promise<RunOwner | undefined> {
  const text = await readLock(join(directory, RUN_LAYOUT.lock));
  const owner = text === undefined ? undefined : parseOwner(text);
  if (text === undefined || !owner) return undefined;
  const { pid, host, since } = owner;
  return { pid, host, since, gone: isOwnerGone(text) };
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

function lockedError(path: string, text: string): RunDirectoryError {
  const owner = parseOwner(text);
  const who =
    owner === undefined ? "an unknown process" : `process ${owner.pid} on ${owner.host}, since ${owner.since}`;
  const message = `the run is being written by ${who}; wait for it, or delete ${path} if that run is over`;
  return new RunDirectoryError("RUN_DIRECTORY_LOCKED", message);
}
