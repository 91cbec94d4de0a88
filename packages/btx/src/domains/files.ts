import { readdir, readFile, realpath } from "node:fs/promises";
import { join } from "node:path";

/** Folders that hold no text of their own. */
const skippedFolders: ReadonlySet<string> = new Set([".git", ".cache", ".bin", "fixtures", "__snapshots__"]);
/** Larger files are bundles or data. */
const maxFileBytes = 512 * 1024;

/**
 * Files under `roots` whose name matches, each real file once (package managers link the same folder to many places), in an order
 * that does not depend on the file system.
 */
export async function findFiles(roots: readonly string[], matches: (name: string) => boolean): Promise<string[]> {
  const visited = new Set<string>();
  const found: string[] = [];
  const visit = async (folder: string): Promise<void> => {
    const real = await realpath(folder).catch(() => undefined);
    if (real === undefined || visited.has(real)) return;
    visited.add(real);
    const entries = await readdir(real, { withFileTypes: true }).catch(() => []);
    entries.sort((a, b) => (a.name < b.name ? -1 : 1));
    for (const entry of entries) {
      const path = join(real, entry.name);
      if (entry.isFile()) {
        if (matches(entry.name)) found.push(path);
      } else if ((entry.isDirectory() || entry.isSymbolicLink()) && !skippedFolders.has(entry.name)) await visit(path);
    }
  };
  for (const root of roots) await visit(root);
  return found.sort();
}

/** The file's text; undefined when it is not UTF-8 text of a sensible size. */
export async function readText(path: string): Promise<string | undefined> {
  const bytes = await readFile(path).catch(() => undefined);
  if (bytes === undefined || bytes.length === 0 || bytes.length > maxFileBytes || bytes.includes(0)) return undefined;
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes).replaceAll("\r\n", "\n");
  } catch {
    return undefined;
  }
}
