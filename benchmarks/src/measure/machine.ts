import { execFile } from "node:child_process";
import { cpus, loadavg, totalmem } from "node:os";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import type { Device } from "@trefoil/core";
import { LinePeer } from "../peers/line-peer.js";
import type { MachineLimits, Result } from "../results/schema.js";
import { spread } from "./statistics.js";

interface Probed {
  fmaGigaflops: number;
  isa: string;
  copyGigabytes: number;
}

/** The machine's own limits, probed again and again during a run so that a share of them is of the same minutes. */
export class MachineProbe implements Disposable {
  readonly #process: LinePeer;
  readonly #samples = new Map<number, Probed[]>();

  /** @param program path of the built `machine_probe` */
  constructor(program: string) {
    this.#process = new LinePeer("machine_probe", program, []);
  }

  /** Whether the limits with this many threads are known. */
  has(threads: number): boolean {
    return this.#samples.has(threads);
  }

  async sample(threads: number): Promise<void> {
    const probed = await this.#process.request<Probed>(String(threads));
    this.#samples.set(threads, [...(this.#samples.get(threads) ?? []), probed]);
  }

  /** Everything sampled so far, by number of threads. */
  limits(): MachineLimits[] {
    return [...this.#samples].map(([threads, samples]) => ({
      threads,
      isa: samples[0]!.isa,
      fmaGigaflops: spread(samples.map(({ fmaGigaflops }) => fmaGigaflops)),
      copyGigabytes: spread(samples.map(({ copyGigabytes }) => copyGigabytes)),
    }));
  }

  [Symbol.dispose](): void {
    this.#process[Symbol.dispose]();
  }
}

export function describeMachine(device: Device): Omit<Result["machine"], "limits"> {
  return {
    cpu: cpus()[0]?.model.trim() ?? "unknown",
    cores: cpus().length,
    threads: device.info.threads,
    isa: device.info.isa,
    memoryBytes: totalmem(),
    platform: `${process.platform} ${process.arch}`,
    node: process.version,
    loadBefore: loadavg()[0]!,
  };
}

/** Above this share of its cores a machine was doing something else, and the numbers are not to be quoted. */
const idleLoad = 0.3;

export const isIdle = ({ loadBefore, cores }: Pick<Result["machine"], "loadBefore" | "cores">): boolean =>
  loadBefore <= idleLoad * cores;

/** The commit that is measured, with `+` where files differ from it; null outside a git checkout. */
export async function currentCommit(): Promise<string | null> {
  const cwd = fileURLToPath(new URL("../..", import.meta.url));
  const git = async (...args: string[]) => (await promisify(execFile)("git", args, { cwd })).stdout.trim();
  try {
    const changed = await git("status", "--porcelain", "--untracked-files=no");
    return `${await git("rev-parse", "--short=12", "HEAD")}${changed ? "+" : ""}`;
  } catch {
    return null;
  }
}
