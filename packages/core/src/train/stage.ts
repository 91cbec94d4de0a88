import { accessSync, constants, existsSync, statSync } from "node:fs";
import { dirname, isAbsolute, relative, resolve, sep } from "node:path";
import { OutputExistsError, OutputFolderError, RunDirectoryError } from "./errors.js";
import type { Progress } from "./progress.js";

/** What a stage is given by the command line, or by a program that uses it as a library. */
export interface StageContext {
  progress?: Progress;
  /** Aborted: finish the step, save a checkpoint, return. */
  signal?: AbortSignal;
}

/** Where a training stage writes. */
export interface StageOutput {
  /** Folder of the result. */
  output: string;
  /** Run directory: configuration, metrics, checkpoints. */
  run: string;
  /** Go on from the newest checkpoint of the run directory, if there is one. */
  resume?: boolean;
  overwrite?: boolean;
}

/**
 * Before anything is trained.
 * @throws OutputExistsError when the output is there and may not be replaced, OutputFolderError when it could not be written at the end,
 *   RunDirectoryError when replacing it would take the run with it
 */
export function requireFreeOutput({
  output,
  run,
  overwrite,
}: {
  output: string;
  run?: string;
  overwrite?: boolean | undefined;
}): void {
  if (!overwrite && existsSync(output)) throw new OutputExistsError(output);
  requireWritableFolder(output);
  if (run === undefined) return;
  const [first] = relative(output, run).split(sep);
  if (first === ".." || isAbsolute(relative(output, run))) return;
  const message = `the run directory ${run} is in the output ${output}, which is put in place as a whole: name another`;
  throw new RunDirectoryError("RUN_DIRECTORY_IN_OUTPUT", message);
}

/** The folder that the output, or the first missing folder above it, is to be made in. */
function requireWritableFolder(output: string): void {
  let folder = dirname(resolve(output));
  while (!existsSync(folder) && dirname(folder) !== folder) folder = dirname(folder);
  try {
    accessSync(folder, constants.W_OK);
  } catch (cause) {
    throw new OutputFolderError(output, folder, { cause });
  }
  if (!statSync(folder).isDirectory()) throw new OutputFolderError(output, folder);
}

/** The options that are set: absent and undefined are not the same to strict optional properties. */
export function defined<T extends object>(options: T): { [K in keyof T]?: Exclude<T[K], undefined> } {
  return Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined)) as {
    [K in keyof T]?: Exclude<T[K], undefined>;
  };
}
