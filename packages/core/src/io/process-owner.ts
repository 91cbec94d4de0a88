import { readFileSync } from "node:fs";
import { hostname } from "node:os";

/** The process that holds a lock or writes a temporary folder, told apart from a later one with the same number. */
export interface ProcessOwner {
  readonly pid: number;
  readonly host: string;
  readonly processStart: string | undefined;
  readonly since: string;
}

export const thisProcess = (now: Date): ProcessOwner => ({
  pid: process.pid,
  host: hostname(),
  processStart: processStart(process.pid),
  since: now.toISOString(),
});

export function parseOwner(text: string): ProcessOwner | undefined {
  try {
    const owner = JSON.parse(text) as Partial<ProcessOwner>;
    return typeof owner.pid === "number" && typeof owner.host === "string" ? (owner as ProcessOwner) : undefined;
  } catch {
    return undefined;
  }
}

/** Whether the process that wrote `text` is gone for certain. Another machine's processes cannot be looked up: they count as there. */
export function isOwnerGone(text: string): boolean {
  const owner = parseOwner(text);
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
    return (error as NodeJS.ErrnoException).code === "EPERM";
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
