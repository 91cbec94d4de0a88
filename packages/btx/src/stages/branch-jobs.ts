import { spawn } from "node:child_process";
import { once } from "node:events";
import { open } from "node:fs/promises";
import { availableParallelism } from "node:os";
import { join } from "node:path";
import { readFailure } from "./branch-status.js";
import { StageError } from "./errors.js";

export interface BranchJobsOptions {
  /** Domains to train. */
  domains: readonly string[];
  /** Processes at a time. */
  jobs: number;
  /** Program and arguments that train one domain, its last argument the domain. */
  command: readonly string[];
  /** Run directory of all: what a process says goes to `<run>/<domain>.log`. */
  run: string;
  /** Aborted: each process is asked once to stop, and awaited. */
  signal?: AbortSignal;
  /** Called now and then, and when a process ends, with the number of those that ended. */
  onProgress?: (ended: number) => Promise<void>;
}

/** Cores that this process may use, or as many as TREFOIL_THREADS says. */
const cores = (): number => Number(process.env.TREFOIL_THREADS) || availableParallelism();

/**
 * Trains branches in processes of their own, several at a time, each with its share of the cores. One that fails does not stop the others.
 * Returns whether all came to the end.
 * @throws StageError `BTX_BRANCHES` naming those that failed and why, once all others have ended
 */
export async function runBranchJobs(options: BranchJobsOptions): Promise<boolean> {
  const { domains, signal, run, onProgress } = options;
  const jobs = Math.min(options.jobs, domains.length);
  const threads = Math.max(1, Math.floor(cores() / jobs));
  const queue = [...domains];
  const failed: string[] = [];
  let completed = 0;
  // What cannot be told must not leave processes behind.
  const tell = () => onProgress?.(completed + failed.length).catch(() => undefined);
  const work = async (): Promise<void> => {
    for (let domain = queue.shift(); domain !== undefined && !signal?.aborted; domain = queue.shift()) {
      const code = await runProcess(domain, threads, options);
      if (code === 0) completed++;
      else if (!signal?.aborted) {
        const reason = (await readFailure(run, domain))?.message ?? `its process ended with ${code}`;
        failed.push(`${domain} (${reason}; ${join(run, `${domain}.log`)})`);
      }
      await tell();
    }
  };
  const timer = setInterval(() => void tell(), 1000);
  try {
    await Promise.all(Array.from({ length: jobs }, work));
  } finally {
    clearInterval(timer);
  }
  if (failed.length > 0) {
    const retry = "the others are not affected; run the command again with --resume";
    throw new StageError(
      "BTX_BRANCHES",
      `${failed.length} of ${domains.length} branches failed: ${failed.join(", ")}; ${retry}`,
    );
  }
  return completed === domains.length;
}

async function runProcess(
  domain: string,
  threads: number,
  { command, run, signal }: BranchJobsOptions,
): Promise<number | NodeJS.Signals> {
  const log = await open(join(run, `${domain}.log`), "a");
  try {
    // In a group of its own: Ctrl-C reaches this process alone, which passes it on once. A second signal would kill.
    const child = spawn(command[0]!, [...command.slice(1), domain], {
      detached: true,
      stdio: ["ignore", log.fd, log.fd],
      env: { ...process.env, TREFOIL_THREADS: String(threads) },
    });
    const ended = once(child, "exit") as Promise<[number | null, NodeJS.Signals | null]>;
    const stop = () => void child.kill("SIGTERM");
    signal?.addEventListener("abort", stop, { once: true });
    if (signal?.aborted) stop();
    const [code, killedBy] = await ended.finally(() => signal?.removeEventListener("abort", stop));
    return code ?? killedBy!;
  } finally {
    await log.close();
  }
}
