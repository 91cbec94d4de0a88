import { closeSync, fsync, openSync } from "node:fs";
import { mkdir } from "node:fs/promises";
import { hostname } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { maskedCrc32c } from "./crc32c.js";
import { appendWhole, type MetricsRecord, type MetricsSink } from "./metrics.js";

export interface TensorBoardOptions {
  /** Tell TensorBoard to forget what earlier event files hold after this step. */
  readonly resumeStep?: number | undefined;
  /** Clock: milliseconds since 1970. */
  readonly now?: () => number;
}

/**
 * Opens a new TensorBoard event file in `folder`. Scalars are tagged `train/loss`, `evaluate/loss`. The file is a
 * sequence of TFRecord frames, each an `Event` protocol buffer (tensorflow/core/util/event.proto).
 */
export async function openTensorBoardFile(folder: string, options: TensorBoardOptions = {}): Promise<MetricsSink> {
  await mkdir(folder, { recursive: true });
  return new TensorBoardFile(folder, options);
}

class TensorBoardFile implements MetricsSink {
  readonly #path: string;
  readonly #now: () => number;
  readonly #descriptor: number;
  #closed = false;

  constructor(folder: string, { resumeStep, now = Date.now }: TensorBoardOptions) {
    this.#now = now;
    // TensorBoard reads the files of a folder in the order of their names: seconds first, then a tie-breaker.
    const milliseconds = String(now() % 1000).padStart(3, "0");
    const seconds = String(Math.floor(now() / 1000)).padStart(10, "0");
    this.#path = join(folder, `events.out.tfevents.${seconds}.${hostname()}.${process.pid}.${milliseconds}`);
    this.#descriptor = openSync(this.#path, "ax");
    this.#append({ fileVersion: "brain.Event:2" });
    if (resumeStep !== undefined) this.#append({ restartAt: resumeStep + 1 });
  }

  write({ step, kind, values }: MetricsRecord): void {
    const finite = Object.entries(values).filter(([, value]) => Number.isFinite(value));
    const scalars = finite.map(([name, value]): [string, number] => [`${kind}/${name}`, value]);
    if (scalars.length > 0) this.#append({ step, scalars });
  }

  async flush(): Promise<void> {
    if (!this.#closed) await promisify(fsync)(this.#descriptor);
  }

  async close(): Promise<void> {
    if (this.#closed) return;
    await this.flush();
    this.#closed = true;
    closeSync(this.#descriptor);
  }

  #append(content: EventContent): void {
    appendWhole(this.#descriptor, encodeRecord(encodeEvent(this.#now() / 1000, content)), this.#path);
  }
}

type EventContent =
  | { readonly fileVersion: string }
  | { readonly restartAt: number }
  | { readonly step: number; readonly scalars: readonly (readonly [tag: string, value: number])[] };

/** TFRecord frame: length (uint64), its checksum, the data, its checksum; all little-endian. */
export function encodeRecord(data: Uint8Array): Buffer {
  const record = Buffer.alloc(data.length + 16);
  record.writeBigUInt64LE(BigInt(data.length), 0);
  record.writeUInt32LE(maskedCrc32c(record.subarray(0, 8)), 8);
  record.set(data, 12);
  record.writeUInt32LE(maskedCrc32c(data), 12 + data.length);
  return record;
}

/** An `Event`: wall_time = 1, step = 2, file_version = 3, summary = 5, session_log = 7. */
export function encodeEvent(wallTime: number, content: EventContent): Buffer {
  const time = doubleField(1, wallTime);
  if ("fileVersion" in content) return Buffer.concat([time, bytesField(3, Buffer.from(content.fileVersion))]);
  // SessionLog.status = 1 with START = 1: events of other files at or after this step are void.
  if ("restartAt" in content) {
    return Buffer.concat([time, intField(2, content.restartAt), bytesField(7, intField(1, 1))]);
  }
  const values = content.scalars.map(([tag, value]) =>
    bytesField(1, Buffer.concat([bytesField(1, Buffer.from(tag)), floatField(2, value)])),
  );
  return Buffer.concat([time, intField(2, content.step), bytesField(5, Buffer.concat(values))]);
}

// Protocol buffer wire format: a key is (field number << 3 | wire type), numbers are base-128 varints.

function varint(value: number): Buffer {
  const bytes: number[] = [];
  let rest = value;
  while (rest >= 0x80) {
    bytes.push((rest % 0x80) | 0x80);
    rest = Math.floor(rest / 0x80);
  }
  bytes.push(rest);
  return Buffer.from(bytes);
}

function intField(field: number, value: number): Buffer {
  return Buffer.concat([varint(field * 8), varint(value)]);
}

function doubleField(field: number, value: number): Buffer {
  const bytes = Buffer.alloc(9);
  bytes[0] = field * 8 + 1;
  bytes.writeDoubleLE(value, 1);
  return bytes;
}

function bytesField(field: number, value: Uint8Array): Buffer {
  return Buffer.concat([varint(field * 8 + 2), varint(value.length), value]);
}

function floatField(field: number, value: number): Buffer {
  const bytes = Buffer.alloc(5);
  bytes[0] = field * 8 + 5;
  bytes.writeFloatLE(value, 1);
  return bytes;
}
