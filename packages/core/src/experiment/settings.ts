import { existsSync } from "node:fs";
import { mkdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { isDeepStrictEqual } from "node:util";
import { writeFileAtomic } from "../io/atomic-file.js";
import { ResumeError } from "../train/errors.js";

const fileOf = (directory: string): string => join(directory, "settings.json");

/** The settings that a folder's results were made with; undefined where it does not say. */
export async function readSettings<Settings>(directory: string): Promise<Settings | undefined> {
  if (!existsSync(fileOf(directory))) return undefined;
  return JSON.parse(await readFile(fileOf(directory), "utf8")) as Settings;
}

/**
 * Notes the settings of a folder in `settings.json`. A folder without that file is taken to be of these settings.
 * @param mayChange settings that only say which rows there are, such as how many seeds
 * @throws ResumeError where the folder has results of other settings: the two cannot be compared
 */
export async function keepSettings<Settings extends object>(
  directory: string,
  settings: Settings,
  mayChange: readonly (keyof Settings)[],
): Promise<void> {
  await mkdir(directory, { recursive: true });
  const text = `${JSON.stringify(settings, null, 2)}\n`;
  const now = JSON.parse(text) as Partial<Settings>;
  const before = (await readSettings<Partial<Settings>>(directory)) ?? now;
  const keys = Object.keys({ ...before, ...now }) as (keyof Settings)[];
  const changed = keys.find((key) => !mayChange.includes(key) && !isDeepStrictEqual(before[key], now[key]));
  if (changed !== undefined) {
    const [old, given] = [before, now].map((of) => JSON.stringify(of[changed]));
    throw new ResumeError(
      `${directory} holds results with ${String(changed)} ${old}, not ${given}: name another folder, or give the settings it was begun with`,
    );
  }
  await writeFileAtomic(fileOf(directory), text);
}
