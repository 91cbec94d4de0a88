import { randomBytes } from "node:crypto";
import { type FileHandle, open, rename, rm } from "node:fs/promises";
import { basename, dirname, join } from "node:path";

/** Some systems refuse one read or write of 2 GiB or more. */
const maxTransfer = 1 << 28;

/** What names of temporary siblings of `path` begin with: of a name as long as names may be, all would not fit. */
export const temporaryPrefix = (path: string): string => `.tmp-${Array.from(basename(path)).slice(0, 48).join("")}-`;

/** A name beside `path` that no other process uses: on the same file system, so a rename is atomic. */
export function temporarySibling(path: string): string {
  return join(dirname(path), `${temporaryPrefix(path)}${process.pid}-${randomBytes(4).toString("hex")}`);
}

/** Writes all of `bytes` at `position`. */
export async function writeFully(handle: FileHandle, bytes: Uint8Array, position: number): Promise<void> {
  let done = 0;
  while (done < bytes.byteLength) {
    const length = Math.min(maxTransfer, bytes.byteLength - done);
    const { bytesWritten } = await handle.write(bytes, done, length, position + done);
    done += bytesWritten;
  }
}

/** Fills `target` from `position` and returns the bytes read: fewer than asked only at the end of the file. */
export async function readFully(handle: FileHandle, target: Uint8Array, position: number): Promise<number> {
  let done = 0;
  while (done < target.byteLength) {
    const length = Math.min(maxTransfer, target.byteLength - done);
    const { bytesRead } = await handle.read(target, done, length, position + done);
    if (bytesRead === 0) break;
    done += bytesRead;
  }
  return done;
}

/** Makes renames and new entries of a folder durable. Windows has no such call and needs none. */
export async function syncDirectory(path: string): Promise<void> {
  if (process.platform === "win32") return;
  const handle = await open(path, "r");
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}

/** Writes a new file and waits until it is on disk. The caller renames its folder, or it, into place. */
export async function writeFileSynced(path: string, content: string | Uint8Array): Promise<void> {
  const handle = await open(path, "wx");
  try {
    await writeFully(handle, typeof content === "string" ? Buffer.from(content) : content, 0);
    await handle.sync();
  } finally {
    await handle.close();
  }
}

/** Replaces `path` by `content`: a reader, or a power cut, sees all of the old file or all of the new one. */
export async function writeFileAtomic(path: string, content: string | Uint8Array): Promise<void> {
  const temporary = temporarySibling(path);
  try {
    await writeFileSynced(temporary, content);
    await rename(temporary, path);
  } catch (error) {
    await rm(temporary, { force: true });
    throw error;
  }
  await syncDirectory(dirname(path));
}
