/** The Trefoil engine: loads the addon, or says exactly what is missing and how to get it. */
import { existsSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import type { NativeAddon } from "./addon.js";

export * from "./addon.js";

/** Base of the errors that Trefoil throws: `code` is stable, the message says what to do. */
export class TrefoilError extends Error {
  readonly code: string;

  constructor(code: string, message: string, options?: ErrorOptions) {
    super(message, options);
    this.name = new.target.name;
    this.code = code;
  }
}

/** One place where the addon was looked for, and why it could not be used. */
export interface LoadAttempt {
  path: string;
  reason: string;
}

/** The compiled addon could not be loaded. */
export class NativeLoadError extends TrefoilError {
  readonly attempts: readonly LoadAttempt[];

  constructor(attempts: readonly LoadAttempt[], fix: string, options?: ErrorOptions) {
    const tried = attempts.map(({ path, reason }) => `  ${path}: ${reason}`).join("\n");
    super("TREFOIL_NATIVE_MISSING", `The Trefoil engine could not be loaded. Tried\n${tried}\n${fix}`, options);
    this.attempts = attempts;
  }
}

let loaded: NativeAddon | undefined;

function packageRoot(): string {
  const here = dirname(fileURLToPath(import.meta.url));
  // This module runs from dist/ once compiled.
  return existsSync(join(here, "package.json")) ? here : dirname(here);
}

/** The command that builds the engine, or the library of CUDA: the same in a clone and where this package was installed. */
export function buildCommand(what: "engine" | "cuda"): string {
  return `node "${join(packageRoot(), "scripts", what === "engine" ? "build.mjs" : "build-cuda.mjs")}"`;
}

/** Where the addon is looked for, in order. */
export function addonPaths(): string[] {
  const chosen = process.env.TREFOIL_NATIVE_PATH;
  if (chosen) return [resolve(chosen)];
  const root = packageRoot();
  return [join(root, "build", "Release", "trefoil.node"), join(root, "build", "trefoil.node")];
}

/** Where the library of a backend that is not part of the addon ("cuda") is looked for, in order. */
export function backendLibraryPaths(backend: string): string[] {
  const name = `libtrefoil_${backend}.so`;
  const chosen = process.env.TREFOIL_NATIVE_PATH;
  return [...(chosen ? [join(dirname(resolve(chosen)), name)] : []), join(packageRoot(), `build-${backend}`, name)];
}

/**
 * The addon, loaded on the first call from `TREFOIL_NATIVE_PATH` if that is set, else from this package's build folder.
 * @throws {NativeLoadError} listing every path tried, why each failed, and the command that fixes it.
 */
export function addon(): NativeAddon {
  loaded ??= load();
  return loaded;
}

function load(): NativeAddon {
  const chosen = process.env.TREFOIL_NATIVE_PATH;

  const require = createRequire(import.meta.url);
  const attempts: LoadAttempt[] = [];
  const causes: unknown[] = [];
  for (const path of addonPaths()) {
    if (!existsSync(path)) {
      attempts.push({ path, reason: "no such file" });
      continue;
    }
    try {
      return require(path) as NativeAddon;
    } catch (error) {
      // The loader repeats the path and may add lines of hints that do not apply.
      const [line = ""] = (error instanceof Error ? error.message : String(error)).split("\n");
      attempts.push({ path, reason: line.replace(`${path}: `, "") });
      causes.push(error);
    }
  }
  const fix = chosen
    ? "TREFOIL_NATIVE_PATH names the first; unset it to use the engine of this package."
    : `Build it with \`${buildCommand("engine")}\` (needs CMake 3.20 and a C++20 compiler).`;
  throw new NativeLoadError(attempts, fix, causes.length > 0 ? { cause: causes[0] } : undefined);
}
