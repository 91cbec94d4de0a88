import { accessSync, constants, statSync } from "node:fs";
import { delimiter, isAbsolute, join } from "node:path";

/**
 * The absolute path of a program, or undefined.
 * @param {string} name a name to look up on PATH, or an absolute path
 * @param {NodeJS.ProcessEnv} environment
 */
export function findExecutable(name, environment) {
  const candidates = isAbsolute(name)
    ? [name]
    : (environment.PATH ?? "")
        .split(delimiter)
        .filter(Boolean)
        .map((directory) => join(directory, name));
  return candidates.find((path) => {
    try {
      accessSync(path, constants.X_OK);
      return statSync(path).isFile();
    } catch {
      return false;
    }
  });
}
