import { mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { dirname } from "node:path";
import { setTimeout } from "node:timers/promises";
import { PhaseLine } from "./phase.mjs";

/** @param {string} path @param {string} text @returns {boolean} whether it was not there */
function create(path, text) {
  try {
    writeFileSync(path, text, { flag: "wx" });
    return true;
  } catch (error) {
    if (error.code === "EEXIST") return false;
    throw error;
  }
}

/** @param {string} path @returns {string | undefined} */
function read(path) {
  try {
    return readFileSync(path, "utf8");
  } catch (error) {
    if (error.code === "ENOENT") return undefined;
    throw error;
  }
}

/** Whether a process runs, or one of another user. @param {string} pid */
function runs(pid) {
  try {
    process.kill(Number(pid), 0);
    return true;
  } catch (error) {
    return error.code === "EPERM";
  }
}

/**
 * Waits until no other set-up of this checkout is under way: two would install and compile in the same folders. The lock of run directories
 * is no use here: set-up is what builds it.
 * A lock whose process is gone, or that has no number in it, counts for nothing.
 * @param {string} path of the lock file @returns {Promise<() => void>} gives the lock back; so does the end of the process
 */
export async function takeTurn(path) {
  mkdirSync(dirname(path), { recursive: true });
  const own = String(process.pid);
  /** @type {PhaseLine | undefined} */
  let line;
  while (!create(path, own)) {
    const holder = read(path);
    if (holder === undefined) continue;
    if (/^\d+$/.test(holder) && holder !== own && runs(holder)) {
      line ??= new PhaseLine(
        "waiting",
        `for another set-up of this checkout (process ${holder}; if that is none, delete ${path})`,
      );
      await setTimeout(200);
    } else {
      // It may be in the middle of writing its number, or of giving the lock back.
      await setTimeout(50);
      if (read(path) === holder) rmSync(path, { force: true });
    }
  }
  line?.done("the other set-up has ended");
  const release = () => {
    if (read(path) === own) rmSync(path, { force: true });
  };
  process.once("exit", release);
  return () => {
    process.off("exit", release);
    release();
  };
}
