import { mkdir, open, readdir, readFile, rename, stat } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { parse, stringify } from "yaml";
import { ResumeError, RunDirectoryError } from "./errors.js";
import { RUN_LAYOUT } from "./run-layout.js";
import { lockDirectory } from "./run-lock.js";

export interface RunDirectoryOptions {
  /** Name of the run: "finetune" makes `runs/finetune-2026-11-23-063500`. */
  readonly name: string;
  /** Folder of the runs; `runs` by default. */
  readonly root?: string;
  /** Exact folder, instead of one made from the name. */
  readonly directory?: string | undefined;
  /** Open the run that `directory` holds instead of starting one. */
  readonly resume?: boolean;
  /** The resolved configuration, saved as `config.yaml`. */
  readonly config: object;
  /** May refuse a run that is resumed, by throwing: the lock is held, and nothing has been written yet. */
  readonly accept?: (path: string) => Promise<void>;
  /** Versions noted in `config.yaml`: `{ btx: "0.1.0" }`. */
  readonly versions?: Readonly<Record<string, string>>;
  readonly now?: () => Date;
}

/** A run directory that this process holds the lock of. */
export interface RunDirectory extends AsyncDisposable {
  readonly path: string;
  readonly config: string;
  readonly metrics: string;
  readonly tensorboard: string;
  readonly checkpoints: string;
  readonly report: string;
  /** Gives the lock back. */
  close(): Promise<void>;
}

/**
 * Creates or resumes a run directory, takes its lock and saves the configuration.
 * @throws RunDirectoryError RUN_DIRECTORY_EXISTS when a new run would overwrite one, RUN_DIRECTORY_MISSING when there is
 *   nothing to resume, RUN_DIRECTORY_LOCKED when another process writes there.
 */
export async function openRunDirectory(options: RunDirectoryOptions): Promise<RunDirectory> {
  const { name, root = "runs", directory, resume = false, config, versions = {}, now = () => new Date() } = options;
  let path: string;
  if (directory !== undefined) {
    path = directory;
    await (resume ? requireRun(path) : createEmpty(path));
  } else if (resume) {
    throw new RunDirectoryError("RUN_DIRECTORY_MISSING", "name the run directory to resume");
  } else {
    path = await createNamed(root, `${safeName(name)}-${timestamp(now())}`);
  }

  const release = await lockDirectory(join(path, RUN_LAYOUT.lock), now());
  try {
    if (resume) await options.accept?.(path);
    await mkdir(join(path, RUN_LAYOUT.checkpoints), { recursive: true });
    await replaceFile(join(path, RUN_LAYOUT.config), describeConfig(name, config, versions, now()));
  } catch (error) {
    await release();
    throw error;
  }
  return {
    path,
    config: join(path, RUN_LAYOUT.config),
    metrics: join(path, RUN_LAYOUT.metrics),
    tensorboard: join(path, RUN_LAYOUT.tensorboard),
    checkpoints: join(path, RUN_LAYOUT.checkpoints),
    report: join(path, RUN_LAYOUT.report),
    close: release,
    [Symbol.asyncDispose]: release,
  };
}

/**
 * For `accept`: the configuration must be the one in `config.yaml`. For runs of several stages, which keep what is complete.
 * @throws ResumeError naming the first field that differs
 */
export const sameConfig =
  (config: object) =>
  async (path: string): Promise<void> => {
    const difference = await configDifference(path, config);
    if (difference === undefined) return;
    throw new ResumeError(
      `${path} was started with ${difference}: resume with the same settings, or start a new run directory`,
    );
  };

/** The first field that the configuration in `config.yaml` has and `config` has not, or otherwise: `steps 4, not 8`. */
export async function configDifference(path: string, config: object): Promise<string | undefined> {
  const saved = fieldsOf(parse(await readFile(join(path, RUN_LAYOUT.config), "utf8")));
  const given = fieldsOf(parse(stringify(config)));
  const field = [...new Set([...saved.keys(), ...given.keys()])].find((name) => saved.get(name) !== given.get(name));
  return field && `${field} ${shown(saved.get(field))}, not ${shown(given.get(field))}`;
}

/** A hash says no more than that it is another one. */
const shown = (json: string | undefined): string => json?.replace(/^"([0-9a-f]{12})[0-9a-f]{20,}"$/, "$1…") ?? "unset";

/** JSON of every value that is no object, by its dotted name. */
function fieldsOf(value: unknown, name = ""): Map<string, string> {
  if (typeof value !== "object" || value === null || Array.isArray(value))
    return new Map([[name, JSON.stringify(value)]]);
  const parts = Object.entries(value).flatMap(([key, part]) => [
    ...fieldsOf(part, name === "" ? key : `${name}.${key}`),
  ]);
  return new Map(parts);
}

function describeConfig(name: string, config: object, versions: Readonly<Record<string, string>>, now: Date): string {
  const software = { ...versions, node: process.version };
  const list = Object.entries(software).map(([program, version]) => `${program} ${version}`);
  const header = [`${name}, started ${now.toISOString()}`, `${list.join(", ")}, ${process.platform} ${process.arch}`];
  return `${header.map((line) => `# ${line}\n`).join("")}${stringify(config)}`;
}

async function requireRun(path: string): Promise<void> {
  const found = await stat(join(path, RUN_LAYOUT.config)).catch(() => undefined);
  if (found === undefined) {
    const message = `${path} holds no run to resume (no ${RUN_LAYOUT.config}); start it without resuming, or check the path`;
    throw new RunDirectoryError("RUN_DIRECTORY_MISSING", message);
  }
}

async function createEmpty(path: string): Promise<void> {
  await mkdir(path, { recursive: true });
  const entries = await readdir(path);
  if (entries.length === 0) return;
  const isRun = entries.includes(RUN_LAYOUT.config);
  const advice = isRun ? "resume it, or name another directory" : "name a directory that is empty or does not exist";
  throw new RunDirectoryError(
    "RUN_DIRECTORY_EXISTS",
    `${path} ${isRun ? "holds a run" : "is not empty"} already; ${advice}`,
  );
}

/** `mkdir` without `recursive` fails when the name is taken, so two runs of one second get two directories. */
async function createNamed(root: string, name: string): Promise<string> {
  await mkdir(root, { recursive: true });
  for (let attempt = 1; ; attempt++) {
    const path = join(root, attempt === 1 ? name : `${name}-${attempt}`);
    try {
      await mkdir(path);
      return path;
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== "EEXIST") throw error;
    }
  }
}

function safeName(name: string): string {
  return name.replace(/[^\p{L}\p{N}._-]+/gu, "-").replace(/^[-.]+|-+$/g, "") || "run";
}

/** Local time as `2026-11-23-063500`. */
function timestamp(date: Date): string {
  const two = (value: number) => String(value).padStart(2, "0");
  const day = `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())}`;
  return `${day}-${two(date.getHours())}${two(date.getMinutes())}${two(date.getSeconds())}`;
}

/** Writes `text` to a file so that a reader, or a crash, finds either the old text or the new, whole. */
export async function replaceFile(path: string, text: string): Promise<void> {
  const temporary = join(dirname(path), `.${basename(path)}.${process.pid}.tmp`);
  const file = await open(temporary, "w");
  try {
    await file.writeFile(text);
    await file.sync();
  } finally {
    await file.close();
  }
  await rename(temporary, path);
}
