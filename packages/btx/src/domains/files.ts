import { existsSync } from "node:fs";
import { readdir, readFile, realpath } from "node:fs/promises";
import { dirname, join, sep } from "node:path";
import { fileURLToPath } from "node:url";

/** Folders that hold no text of their own. */
const skippedFolders: ReadonlySet<string> = new Set([".git", ".cache", ".bin", "__snapshots__"]);
/** Larger files are bundles or data. */
const maxFileBytes = 256 * 1024;

/** Every `node_modules` folder on the way up from the working directory and from this package. */
export function installedModules(): string[] {
  const roots = new Set<string>();
  for (const start of [process.cwd(), dirname(fileURLToPath(import.meta.url))]) {
    for (let folder = start; ; folder = dirname(folder)) {
      const modules = join(folder, "node_modules");
      if (existsSync(modules)) roots.add(modules);
      if (dirname(folder) === folder) break;
    }
  }
  return [...roots];
}

/**
 * Files under `roots` whose name matches, each real file once (package managers link one folder to many places). A link
 * that leads out of `node_modules`, to a package being developed, is not followed.
 */
export async function findFiles(roots: readonly string[], matches: (name: string) => boolean): Promise<string[]> {
  const visited = new Set<string>();
  const found: string[] = [];
  const visit = async (folder: string, linked: boolean): Promise<void> => {
    const real = await realpath(folder).catch(() => undefined);
    if (real === undefined || visited.has(real)) return;
    if (linked && !real.includes(`${sep}node_modules${sep}`)) return;
    visited.add(real);
    const entries = await readdir(real, { withFileTypes: true }).catch(() => []);
    for (const entry of entries) {
      const path = join(real, entry.name);
      if (entry.isFile()) {
        if (matches(entry.name)) found.push(path);
      } else if ((entry.isDirectory() || entry.isSymbolicLink()) && !skippedFolders.has(entry.name)) {
        await visit(path, entry.isSymbolicLink());
      }
    }
  };
  for (const root of roots) await visit(root, false);
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

/** The path from the package's name on, the same wherever the package is installed: `zod/v4/core/util.js`. */
export function pathInPackage(path: string): string {
  return path
    .slice(path.lastIndexOf(`${sep}node_modules${sep}`) + `${sep}node_modules${sep}`.length)
    .replaceAll(sep, "/");
}
