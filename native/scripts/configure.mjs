import { existsSync, rmSync } from "node:fs";
import { join } from "node:path";

/**
 * Configures a build folder. CMake refuses one whose checkout was moved or copied, whose generator is another by now (ninja was
 * installed) or whose compiler is gone: such a folder is then begun anew.
 * @template {{ status: number | null }} R
 * @param {string} folder @param {() => R} attempt runs CMake @returns {R}
 */
export function configure(folder, attempt) {
  const cache = join(folder, "CMakeCache.txt");
  const before = existsSync(cache);
  const result = attempt();
  if (result.status === 0 || !before) return result;
  rmSync(cache, { force: true });
  rmSync(join(folder, "CMakeFiles"), { recursive: true, force: true });
  return attempt();
}
