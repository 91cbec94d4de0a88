import { createHash } from "node:crypto";
import { readFile, stat } from "node:fs/promises";
import { fileURLToPath, pathToFileURL } from "node:url";

/** Relative and absolute paths behind `from`, `import` and `require`, in quotes, with or without a bracket before. */
const importedPath = /\b(?:from|import|require)\s*\(?\s*(["'`])((?:\.{0,2}\/)[^"'`\n]*)\1/g;

/** Endings that `require` leaves out. */
const endings = ["", ".js", ".json", ".cjs", "/index.js"];

/** Undefined for what is no file: the match may be in a comment or a text. */
async function fileOf(imported: string, importer: string): Promise<string | undefined> {
  let wanted: string;
  try {
    wanted = fileURLToPath(new URL(imported, pathToFileURL(importer)));
  } catch {
    return undefined;
  }
  for (const ending of endings) {
    const path = wanted + ending;
    if ((await stat(path).catch(() => undefined))?.isFile()) return path;
  }
  return undefined;
}

/**
 * SHA-256 of a module and of the files that it imports by a path, and they in turn; that of the file alone where it imports none.
 * Does not depend on where they are. Packages are not followed, nor paths that are computed.
 */
export async function hashModule(file: string): Promise<string> {
  const hash = createHash("sha256");
  const seen = new Set<string>();
  const visit = async (path: string): Promise<void> => {
    if (seen.has(path)) return;
    seen.add(path);
    const content = await readFile(path);
    if (seen.size > 1) hash.update(`\0${content.length}\0`);
    hash.update(content);
    for (const [, , imported] of content.toString().matchAll(importedPath)) {
      const found = await fileOf(imported!, path);
      if (found !== undefined) await visit(found);
    }
  };
  await visit(file);
  return hash.digest("hex");
}
