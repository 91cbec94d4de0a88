import { readdir, stat } from "node:fs/promises";
import { extname, join, sep } from "node:path";
import { DataError } from "./errors.js";

const magic = /[*?[{]/;

/**
 * The files that a list of files, folders and globs (`*`, `**`, `?`, `[a-z]`, `{a,b}`) names, each once, in the order of the list and
 * by name within folders. What is there by its whole name, `[old] notes`, is no glob. Folders give the files that end in one of `extensions`. Hidden entries, and links to folders, are
 * passed over unless named.
 * @throws DataError `DATA_NOT_FOUND` for an entry that names no file
 */
export async function resolveFiles(paths: readonly string[], extensions: readonly string[]): Promise<string[]> {
  const files = new Set<string>();
  for (const path of paths) {
    let found = 0;
    const pattern = magic.test(path) && !(await exists(path));
    for await (const file of pattern ? glob(path) : expand(path, extensions)) {
      files.add(file);
      found++;
    }
    if (found === 0) {
      throw new DataError(
        "DATA_NOT_FOUND",
        `${path}: no file there${pattern ? " matches" : ` ends in ${extensions.join(", ")}`}`,
      );
    }
  }
  return [...files];
}

async function* expand(path: string, extensions: readonly string[]): AsyncGenerator<string> {
  let info: Awaited<ReturnType<typeof stat>>;
  try {
    info = await stat(path);
  } catch (cause) {
    throw new DataError("DATA_NOT_FOUND", `${path}: no such file or folder`, { cause });
  }
  if (!info.isDirectory()) yield path;
  else for await (const file of walk(path)) if (extensions.includes(extname(file))) yield file;
}

async function* glob(pattern: string): AsyncGenerator<string> {
  const segments = pattern.split(sep === "\\" ? /[\\/]/ : "/");
  let fixed = segments.findIndex((segment) => magic.test(segment));
  while (fixed < segments.length - 1 && (await exists(segments.slice(0, fixed + 1).join("/")))) fixed++;
  const base = segments.slice(0, fixed).join("/") || (fixed > 0 ? "/" : ".");
  const matches = globPattern(segments.slice(fixed).join("/"));
  const prefix = base === "/" ? 1 : base.length + 1;
  for await (const file of walk(base))
    if (matches.test(file.slice(prefix).replaceAll(sep, "/"))) yield fixed === 0 ? file.slice(2) : file;
}

async function* walk(folder: string): AsyncGenerator<string> {
  const entries = await readdir(folder, { withFileTypes: true }).catch((cause: unknown) => {
    throw new DataError("DATA_NOT_FOUND", `${folder}: the folder cannot be read`, { cause });
  });
  entries.sort((a, b) => (a.name < b.name ? -1 : 1));
  for (const entry of entries) {
    if (entry.name.startsWith(".")) continue;
    const path = folder === "." ? `./${entry.name}` : join(folder, entry.name);
    if (entry.isDirectory()) yield* walk(path);
    else if (entry.isFile() || (entry.isSymbolicLink() && (await isFile(path)))) yield path;
  }
}

async function exists(path: string): Promise<boolean> {
  return await stat(path).then(
    () => true,
    () => false,
  );
}

async function isFile(path: string): Promise<boolean> {
  try {
    return (await stat(path)).isFile();
  } catch {
    return false;
  }
}

function globPattern(pattern: string): RegExp {
  let source = "";
  let braces = 0;
  for (let i = 0; i < pattern.length; i++) {
    const c = pattern[i] as string;
    if (pattern.startsWith("**/", i)) {
      source += "(?:[^/]+/)*";
      i += 2;
    } else if (pattern.startsWith("**", i)) {
      source += ".*";
      i++;
    } else if (c === "*") source += "[^/]*";
    else if (c === "?") source += "[^/]";
    else if (c === "{") {
      source += "(?:";
      braces++;
    } else if (c === "}" && braces > 0) {
      source += ")";
      braces--;
    } else if (c === "," && braces > 0) source += "|";
    else if (c === "[" && pattern.includes("]", i + 2)) {
      const end = pattern.indexOf("]", i + 2);
      const inside = pattern
        .slice(i + 1, end)
        .replace(/^!/, "^")
        .replaceAll("\\", "\\\\")
        .replaceAll("[", "\\[");
      source += `[${inside}]`;
      i = end;
    } else source += c.replace(/[\\^$.*+?()[\]{}|]/g, "\\$&");
  }
  if (braces > 0) throw new DataError("DATA_INVALID_OPTION", `the pattern "${pattern}" has a { without }`);
  return new RegExp(`^${source}$`, "u");
}
