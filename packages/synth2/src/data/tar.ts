import type { FileHandle } from "node:fs/promises";
import { SynthError } from "../errors.js";

/** A regular file inside a tar: where its bytes are. Nothing is ever extracted. */
export interface TarMember {
  name: string;
  /** Bytes from the start of the tar. */
  offset: number;
  size: number;
}

const block = 512;
/** Long names and PAX records beyond this are not names. */
const longestExtension = 1 << 20;

/**
 * The members of a tar (ustar, GNU long names, PAX paths), in order, header by header: memory does not grow with the tar. Links,
 * devices and folders are passed over.
 * @throws SynthError `SYNTH_TAR` when a header is broken or the file ends inside a member
 */
export async function* readTar(file: FileHandle, path: string): AsyncGenerator<TarMember> {
  const { size: total } = await file.stat();
  const header = Buffer.alloc(block);
  let longName: string | undefined;
  for (let at = 0; at + block <= total; ) {
    await file.read(header, 0, block, at);
    if (header.every((byte) => byte === 0)) return;
    if (!hasValidChecksum(header)) throw new SynthError("SYNTH_TAR", `${path} is no tar: broken header at byte ${at}`);
    const size = numberAt(header, 124, 12);
    const type = String.fromCharCode(header[156]!);
    const offset = at + block;
    const name = longName ?? nameOf(header);
    if (!Number.isSafeInteger(size) || size < 0 || offset + size > total) {
      throw new SynthError("SYNTH_TAR", `${path} ends inside ${JSON.stringify(name.slice(0, 200))}, at byte ${total}`);
    }
    if (type === "L" || type === "x") longName = await readExtension(file, path, offset, size, type);
    // Long targets of links and records for the whole tar may stand between a long name and its member.
    else if (type !== "K" && type !== "g") {
      longName = undefined;
      if (type === "0" || type === "\0" || type === "7") yield { name, offset, size };
    }
    at = offset + Math.ceil(size / block) * block;
  }
}

/** The sum of the header's bytes, its own field counted as spaces. */
function hasValidChecksum(header: Buffer): boolean {
  let sum = 8 * 0x20;
  for (let i = 0; i < block; i++) if (i < 148 || i >= 156) sum += header[i]!;
  return sum === numberAt(header, 148, 8);
}

/** Octal digits, or big-endian binary when the first bit is set. */
function numberAt(header: Buffer, at: number, length: number): number {
  if (header[at]! & 0x80) {
    let value = header[at]! & 0x7f;
    for (let i = 1; i < length; i++) value = value * 256 + header[at + i]!;
    return value;
  }
  const digits = header
    .toString("latin1", at, at + length)
    .replace(/[\0 ]+$/, "")
    .trimStart();
  return /^[0-7]*$/.test(digits) ? Number.parseInt(digits || "0", 8) : Number.NaN;
}

function textAt(header: Buffer, at: number, length: number): string {
  const end = header.indexOf(0, at);
  return header.toString("utf8", at, end < 0 || end > at + length ? at + length : end);
}

function nameOf(header: Buffer): string {
  const name = textAt(header, 0, 100);
  const prefix = header.toString("latin1", 257, 262) === "ustar" ? textAt(header, 345, 155) : "";
  return prefix ? `${prefix}/${name}` : name;
}

async function readExtension(file: FileHandle, path: string, at: number, size: number, type: string) {
  if (size > longestExtension) {
    throw new SynthError("SYNTH_TAR", `${path} has a name record of ${size} bytes; no name is that long`);
  }
  const bytes = Buffer.alloc(size);
  await file.read(bytes, 0, size, at);
  const text = bytes.toString("utf8");
  if (type === "L") return text.replace(/\0.*$/s, "");
  return /(?:^|\n)\d+ path=([^\n]*)\n/.exec(text)?.[1];
}
