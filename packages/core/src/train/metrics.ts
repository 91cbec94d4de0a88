import { closeSync, fsync, openSync, writeSync } from "node:fs";
import { open, readFile } from "node:fs/promises";
import { promisify } from "node:util";
import { MetricsError } from "./errors.js";

/** Scalars of one step. Names are camelCase and stable: they are the columns of `metrics.jsonl`. */
export interface MetricsRecord {
  /** Optimiser updates done so far: 1 after the first step. */
  readonly step: number;
  /** `train` for the scalars of a step, `evaluate` for those of an evaluation after it. */
  readonly kind: "train" | "evaluate";
  readonly values: Readonly<Record<string, number>>;
}

/** Where the training loop sends metrics. `flush` makes everything written so far survive a crash. */
export interface MetricsSink {
  write(record: MetricsRecord): void;
  flush(): Promise<void>;
  close(): Promise<void>;
}

/**
 * Fields of `metrics.jsonl` that depend on the clock. All others are the same in a run that was interrupted and
 * resumed as in one that was not.
 *
 * - `time`: when the line was written, ISO 8601, UTC
 * - `secondsElapsed`: since this process began to train, s
 * - `secondsPerStep`: mean since the line before, without evaluation and checkpoints, s
 * - `tokensPerSecond`: mean since the line before, without evaluation and checkpoints, tokens/s
 */
export const WALL_CLOCK_FIELDS = ["time", "secondsElapsed", "secondsPerStep", "tokensPerSecond"] as const;

export interface MetricsFileOptions {
  /** Keep the lines up to this step and remove the rest. Without it the file starts empty. */
  readonly resumeStep?: number | undefined;
  /** Clock for the `time` field. */
  readonly now?: () => Date;
}

/**
 * Opens `metrics.jsonl`: one JSON object for each record, `step` and `kind` first, then the record's values (null for
 * a value that is not finite), then `time`. Each line is written whole, at once, at the end of the file.
 *
 * @throws MetricsError METRICS_UNREADABLE for a file with a line, other than an unfinished last one, that is not JSON.
 */
export async function openMetricsFile(path: string, options: MetricsFileOptions = {}): Promise<MetricsSink> {
  const { resumeStep, now = () => new Date() } = options;
  const kept = resumeStep === undefined ? 0 : await lengthUpToStep(path, resumeStep);
  const file = await open(path, "a");
  try {
    await file.truncate(kept);
    await file.sync();
  } finally {
    await file.close();
  }
  return new MetricsFile(path, now);
}

class MetricsFile implements MetricsSink {
  readonly #path: string;
  readonly #now: () => Date;
  #descriptor: number | undefined;

  constructor(path: string, now: () => Date) {
    this.#path = path;
    this.#now = now;
    this.#descriptor = openSync(path, "a");
  }

  write({ step, kind, values }: MetricsRecord): void {
    const line = `${JSON.stringify({ step, kind, ...values, time: this.#now().toISOString() })}\n`;
    appendWhole(this.#open(), Buffer.from(line), this.#path);
  }

  async flush(): Promise<void> {
    await promisify(fsync)(this.#open());
  }

  async close(): Promise<void> {
    if (this.#descriptor === undefined) return;
    await this.flush();
    closeSync(this.#descriptor);
    this.#descriptor = undefined;
  }

  #open(): number {
    if (this.#descriptor === undefined) throw new MetricsError("METRICS_CLOSED", `${this.#path} was closed already`);
    return this.#descriptor;
  }
}

/**
 * Appends all of `bytes`, which the operating system may take in parts.
 * @throws MetricsError METRICS_WRITE, for instance on a full disk.
 */
export function appendWhole(descriptor: number, bytes: Uint8Array, path: string): void {
  try {
    for (let written = 0; written < bytes.length; ) written += writeSync(descriptor, bytes, written);
  } catch (cause) {
    throw new MetricsError("METRICS_WRITE", `cannot write ${path}; is the disk full?`, { cause });
  }
}

/** Bytes of the leading lines whose step is at most `step`. A last line without its end was torn by a crash. */
async function lengthUpToStep(path: string, step: number): Promise<number> {
  let bytes: Buffer;
  try {
    bytes = await readFile(path);
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code === "ENOENT") return 0;
    throw new MetricsError("METRICS_UNREADABLE", `cannot read ${path} to resume`, { cause });
  }
  let start = 0;
  for (let line = 1; ; line++) {
    const end = bytes.indexOf(0x0a, start);
    if (end < 0) return start;
    if (parseStep(bytes.toString("utf8", start, end), path, line) > step) return start;
    start = end + 1;
  }
}

function parseStep(text: string, path: string, line: number): number {
  try {
    const { step } = JSON.parse(text) as { step: unknown };
    if (typeof step === "number") return step;
  } catch (cause) {
    const message = `line ${line} of ${path} is not JSON; move the file away or repair the line, then resume`;
    throw new MetricsError("METRICS_UNREADABLE", message, { cause });
  }
  throw new MetricsError("METRICS_UNREADABLE", `line ${line} of ${path} has no step; is it a metrics file?`);
}

/** Reads `metrics.jsonl` back, for a report. An unfinished last line is left out. */
export async function readMetricsFile(path: string): Promise<MetricsRecord[]> {
  const lines = (await readFile(path, "utf8")).split("\n").slice(0, -1);
  return lines.map((text, i) => {
    parseStep(text, path, i + 1);
    const { step, kind, ...rest } = JSON.parse(text) as Pick<MetricsRecord, "step" | "kind"> & Record<string, unknown>;
    const values = Object.entries(rest).filter(([, value]) => typeof value === "number");
    return { step, kind, values: Object.fromEntries(values) as Record<string, number> };
  });
}
