import { createHash } from "node:crypto";
import { createReadStream } from "node:fs";
import { mkdir, readFile, stat } from "node:fs/promises";
import { extname, join, resolve } from "node:path";
import { pipeline } from "node:stream/promises";
import { z } from "zod";
import { writeFileAtomic } from "../io/atomic-file.js";
import { defaultExtensions, type TextSource } from "./documents.js";
import { resolveFiles } from "./files.js";

const knownSchema = z.record(
  z.string(),
  z.strictObject({ size: z.number(), modified: z.number(), sha256: z.string() }),
);

/**
 * What tokens are made from: the content of the files, how they are read, and `settings`. Files that were hashed before and have
 * neither another size nor another time of change are not read again; `folder`, which is made for it, keeps the list.
 */
export async function fingerprintOf(folder: string, source: TextSource, settings: object): Promise<string> {
  const { paths, extensions = defaultExtensions, ...reading } = source;
  const hash = createHash("sha256").update(JSON.stringify([reading, settings]));
  const listPath = join(folder, "files.json");
  const known = await readKnown(listPath);
  const current: z.infer<typeof knownSchema> = {};
  let changed = false;
  for (const path of await resolveFiles(paths, extensions)) {
    const { size, mtimeMs: modified } = await stat(path);
    const before = known[resolve(path)];
    const same = before?.size === size && before.modified === modified;
    const sha256 = same ? before.sha256 : await contentHash(path);
    changed ||= !same;
    current[resolve(path)] = { size, modified, sha256 };
    hash.update(JSON.stringify([extname(path), sha256]));
  }
  if (changed) {
    await mkdir(folder, { recursive: true });
    await writeFileAtomic(listPath, JSON.stringify(current));
  }
  return hash.digest("hex");
}

async function readKnown(path: string): Promise<z.infer<typeof knownSchema>> {
  try {
    return knownSchema.parse(JSON.parse(await readFile(path, "utf8")));
  } catch {
    // Not there, or damaged: the files are hashed again.
    return {};
  }
}

async function contentHash(path: string): Promise<string> {
  const hash = createHash("sha256");
  await pipeline(createReadStream(path, { highWaterMark: 1 << 20 }), hash);
  return hash.digest("hex");
}
