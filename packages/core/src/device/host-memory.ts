import { readFileSync } from "node:fs";
import { totalmem } from "node:os";
import { TrefoilError } from "@trefoil/native";

/** More memory was asked for than there can be. */
export class OutOfMemoryError extends TrefoilError {
  constructor(message: string, options?: ErrorOptions) {
    super("TREFOIL_OUT_OF_MEMORY", message, options);
  }
}

/**
 * @param advice what would take less: "use fewer rows"
 * @throws OutOfMemoryError when the host cannot hold so many bytes, whatever else it does
 */
export function requireHostMemory(bytes: number, what: string, advice: string): void {
  if (bytes <= hostMemory()) return;
  const [needed, present] = [formatBytes(bytes), formatBytes(hostMemory())];
  throw new OutOfMemoryError(`${what} takes ${needed}, and this machine has ${present}: ${advice}`);
}

let known: number | undefined;

/** Bytes that this process can have at most: memory and swap, or the limit of its container. */
function hostMemory(): number {
  known ??= Math.min(totalmem() + swap(), process.constrainedMemory() || Infinity);
  return known;
}

function swap(): number {
  try {
    const [, kilobytes] = /^SwapTotal: +(\d+) kB$/m.exec(readFileSync("/proc/meminfo", "utf8")) ?? [];
    return 1024 * Number(kilobytes ?? 0);
  } catch {
    return 0;
  }
}

export function formatBytes(bytes: number): string {
  const units = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
  const power = Math.min(units.length, Math.max(1, Math.floor(Math.log2(bytes) / 10)));
  const value = bytes / 1024 ** power;
  return `${value >= 100 ? Math.round(value) : value.toPrecision(3)} ${units[power - 1]}`;
}
