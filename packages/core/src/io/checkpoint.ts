import { createHash } from "node:crypto";
import { createReadStream } from "node:fs";
import { mkdir, open, readdir, readFile, rename, rm, stat, statfs } from "node:fs/promises";
import { join } from "node:path";
import { pipeline } from "node:stream/promises";
import { z } from "zod";
import { syncDirectory, temporarySibling, writeFully } from "./atomic-file.js";
import { CheckpointError } from "./errors.js";
import { loadSafetensors } from "./safetensors.js";
import { buildHeader } from "./safetensors-header.js";
import type { StoredTensor } from "./safetensors-writer.js";

export type JsonValue = string | number | boolean | null | readonly JsonValue[] | { readonly [key: string]: JsonValue };

export interface CheckpointContent {
  /** Parameters, optimiser moments, random-number state. */
  tensors: Readonly<Record<string, StoredTensor>>;
  /** Everything else that a resumed run needs: data cursor, counters, schedule. Numbers must be finite. */
  state: JsonValue;
}

export interface LoadedCheckpoint {
  step: number;
  path: string;
  /** `data` is a typed array of the dtype, a `Uint16Array` of bit patterns for F16 and BF16. */
  tensors: Record<string, StoredTensor>;
  state: JsonValue;
}

const tensorsFile = "tensors.safetensors";
const stateFile = "state.json";
const manifestFile = "manifest.json";
const replacedPrefix = ".replaced-";

const manifestSchema = z.object({
  version: z.literal(1),
  step: z.number().int().nonnegative(),
  files: z.record(z.string(), z.object({ bytes: z.number().int().nonnegative(), sha256: z.string() })),
});

/**
 * Saves a checkpoint as `<runDirectory>/checkpoints/step-00001234`. It is written to a temporary folder, synced and renamed:
 * killed at any instant, the checkpoints there before are whole. Afterwards the newest `keepLast` remain; checkpoints of later
 * steps, which a run that was taken back has left behind, are removed too. One process at a time may save to a run directory.
 * @returns the checkpoint's folder
 * @throws CheckpointError `CHECKPOINT_DISK_FULL` (with `bytesNeeded`), `CHECKPOINT_WRITE_FAILED`
 */
export async function saveCheckpoint(
  runDirectory: string,
  step: number,
  content: CheckpointContent,
  options: { keepLast: number },
): Promise<string> {
  const root = join(runDirectory, "checkpoints");
  const path = join(root, stepName(step));
  if (!Number.isSafeInteger(step) || step < 0)
    throw new CheckpointError("CHECKPOINT_WRITE_FAILED", path, `step ${step} is not a step number`);
  const files = [
    { name: tensorsFile, chunks: tensorChunks(path, content.tensors) },
    { name: stateFile, chunks: [Buffer.from(stateJson(path, content.state))] },
  ];
  let bytesNeeded = 0;
  for (const { chunks } of files) for (const chunk of chunks) bytesNeeded += chunk.byteLength;

  const temporary = temporarySibling(path);
  try {
    await mkdir(root, { recursive: true });
    await clearLeftovers(root);
    await mkdir(temporary);
    const manifest: z.infer<typeof manifestSchema> = { version: 1, step, files: {} };
    for (const { name, chunks } of files) manifest.files[name] = await writeHashed(join(temporary, name), chunks);
    await writeHashed(join(temporary, manifestFile), [Buffer.from(`${JSON.stringify(manifest, null, 2)}\n`)]);
    await syncDirectory(temporary);
    await putInPlace(root, temporary, stepName(step));
    await prune(root, step, options.keepLast);
    return path;
  } catch (cause) {
    await rm(temporary, { recursive: true, force: true }).catch(() => undefined); // the first error is the one to report
    throw await describeFailure(root, path, bytesNeeded, cause);
  }
}

/**
 * Loads the newest checkpoint of a run whose files all match their checksums. Changes nothing on disk.
 * @returns undefined when the run has no checkpoint; `warnings` names each newer one that was passed over, and why
 * @throws CheckpointError `CHECKPOINT_NONE_READABLE` when there are checkpoints but none is whole
 */
export async function loadLatestCheckpoint(
  runDirectory: string,
): Promise<{ checkpoint: LoadedCheckpoint; warnings: string[] } | undefined> {
  const root = join(runDirectory, "checkpoints");
  const candidates = (await listCheckpoints(root)).reverse();
  if (candidates.length === 0) return undefined;
  const warnings: string[] = [];
  for (const { name } of candidates) {
    try {
      return { checkpoint: await loadCheckpoint(join(root, name)), warnings };
    } catch (error) {
      if (!(error instanceof CheckpointError)) throw error;
      warnings.push(`Checkpoint passed over: ${error.message}`);
    }
  }
  throw new CheckpointError(
    "CHECKPOINT_NONE_READABLE",
    root,
    `no checkpoint is whole, so the run cannot be resumed.\n${warnings.join("\n")}`,
  );
}

/** Loads one checkpoint folder after checking its files. @throws CheckpointError `CHECKPOINT_UNREADABLE` */
export async function loadCheckpoint(path: string): Promise<LoadedCheckpoint> {
  try {
    const manifest = manifestSchema.parse(JSON.parse(await readFile(join(path, manifestFile), "utf8")));
    for (const name of [tensorsFile, stateFile]) {
      const expected = manifest.files[name];
      if (!expected) throw new Error(`${manifestFile} does not list ${name}`);
      const { size } = await stat(join(path, name));
      if (size !== expected.bytes) throw new Error(`${name} has ${size} bytes instead of ${expected.bytes}`);
      if ((await hashFile(join(path, name))) !== expected.sha256)
        throw new Error(`the checksum of ${name} differs: its content changed`);
    }
    const state = JSON.parse(await readFile(join(path, stateFile), "utf8")) as JsonValue;
    return { step: manifest.step, path, tensors: await loadSafetensors(join(path, tensorsFile)), state };
  } catch (cause) {
    throw new CheckpointError(
      "CHECKPOINT_UNREADABLE",
      path,
      cause instanceof Error ? cause.message : String(cause),
      undefined,
      { cause },
    );
  }
}

/** The checkpoints of a run by ascending step, checked for nothing but their names. */
export async function checkpointSteps(runDirectory: string): Promise<number[]> {
  return [...new Set((await listCheckpoints(join(runDirectory, "checkpoints"))).map(({ step }) => step))];
}

function stepName(step: number): string {
  return `step-${String(step).padStart(8, "0")}`;
}

/** At one step, a checkpoint that was being replaced comes before the one that replaces it. */
async function listCheckpoints(root: string): Promise<{ step: number; name: string; replaced: boolean }[]> {
  let names: string[];
  try {
    names = await readdir(root);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return [];
    throw error;
  }
  return names
    .flatMap((name) => {
      const match = /^(\.replaced-)?step-(\d{8,})$/.exec(name);
      return match ? [{ step: Number(match[2]), name, replaced: match[1] !== undefined }] : [];
    })
    .sort((a, b) => a.step - b.step || Number(b.replaced) - Number(a.replaced));
}

/** Removes what killed saves left; a checkpoint killed while being replaced gets its name back. */
async function clearLeftovers(root: string): Promise<void> {
  const names = await readdir(root);
  for (const name of names) {
    if (name.startsWith(".tmp-")) await rm(join(root, name), { recursive: true, force: true });
    if (!name.startsWith(replacedPrefix)) continue;
    const original = name.slice(replacedPrefix.length);
    if (names.includes(original)) await rm(join(root, name), { recursive: true, force: true });
    else await rename(join(root, name), join(root, original));
  }
}

async function putInPlace(root: string, temporary: string, name: string): Promise<void> {
  const path = join(root, name);
  const replaced = join(root, `${replacedPrefix}${name}`);
  const existed = (await listCheckpoints(root)).some((checkpoint) => checkpoint.name === name);
  if (existed) await rename(path, replaced);
  await rename(temporary, path);
  await syncDirectory(root);
  if (existed) await rm(replaced, { recursive: true, force: true });
}

async function prune(root: string, step: number, keepLast: number): Promise<void> {
  const all = await listCheckpoints(root);
  const kept = new Set(all.filter((checkpoint) => checkpoint.step <= step).slice(-Math.max(1, keepLast)));
  for (const checkpoint of all) {
    if (kept.has(checkpoint)) continue;
    // Renamed first, so that a half-removed folder is never taken for a checkpoint.
    const doomed = temporarySibling(join(root, checkpoint.name));
    await rename(join(root, checkpoint.name), doomed);
    await rm(doomed, { recursive: true, force: true });
  }
}

/** The bytes of a safetensors file, in order. */
function tensorChunks(path: string, tensors: Readonly<Record<string, StoredTensor>>): Uint8Array[] {
  const declarations = Object.entries(tensors).map(([name, { dtype, shape }]) => ({ name, dtype, shape }));
  const layout = buildHeader(path, declarations, {});
  const chunks = [layout.header];
  for (const [name, { bytes }] of layout.tensors) {
    const { data, dtype, shape } = tensors[name] as StoredTensor;
    if (data.byteLength !== bytes) {
      throw new CheckpointError(
        "CHECKPOINT_WRITE_FAILED",
        path,
        `"${name}" ${dtype} [${shape.join(", ")}] takes ${bytes} bytes, but its data has ${data.byteLength}`,
      );
    }
    chunks.push(new Uint8Array(data.buffer, data.byteOffset, data.byteLength));
  }
  return chunks;
}

function stateJson(path: string, state: JsonValue): string {
  return JSON.stringify(state, (key, value: unknown) => {
    // JSON would turn these into null, and the run would not resume as it was.
    if (typeof value === "number" && !Number.isFinite(value)) {
      throw new CheckpointError(
        "CHECKPOINT_WRITE_FAILED",
        path,
        `the state's "${key}" is ${value}, which JSON cannot hold`,
      );
    }
    return value;
  });
}

async function writeHashed(path: string, chunks: readonly Uint8Array[]): Promise<{ bytes: number; sha256: string }> {
  const hash = createHash("sha256");
  const handle = await open(path, "wx");
  let position = 0;
  try {
    for (const chunk of chunks) {
      await writeFully(handle, chunk, position);
      hash.update(chunk);
      position += chunk.byteLength;
    }
    await handle.sync();
  } finally {
    await handle.close();
  }
  return { bytes: position, sha256: hash.digest("hex") };
}

async function hashFile(path: string): Promise<string> {
  const hash = createHash("sha256");
  await pipeline(createReadStream(path, { highWaterMark: 1 << 20 }), hash);
  return hash.digest("hex");
}

const fullDiskCodes: ReadonlySet<string> = new Set(["ENOSPC", "EDQUOT", "EFBIG"]);

async function describeFailure(
  root: string,
  path: string,
  bytesNeeded: number,
  cause: unknown,
): Promise<CheckpointError> {
  if (cause instanceof CheckpointError) return cause;
  const { code, message } = cause as NodeJS.ErrnoException;
  if (!code || !fullDiskCodes.has(code)) {
    return new CheckpointError(
      "CHECKPOINT_WRITE_FAILED",
      path,
      `the checkpoint could not be written (${message})`,
      bytesNeeded,
      { cause },
    );
  }
  const free = await statfs(root).then(
    ({ bavail, bsize }) => `${bavail * bsize} bytes are free`,
    () => "free space is unknown",
  );
  return new CheckpointError(
    "CHECKPOINT_DISK_FULL",
    path,
    `no room for the checkpoint: it needs ${bytesNeeded} bytes, ${free} (${code}). Earlier checkpoints are intact; free some space, or keep fewer checkpoints`,
    bytesNeeded,
    { cause },
  );
}
