import { existsSync } from "node:fs";
import { type FileHandle, open, readdir, readFile, stat } from "node:fs/promises";
import { basename, dirname, extname, isAbsolute, join, normalize, resolve, sep } from "node:path";
import { SynthError } from "../errors.js";
import { expandBraces } from "./braces.js";
import { type Problems, usableCaptions } from "./problems.js";
import { readTar, type TarMember } from "./tar.js";

/** An image that was found with its captions, not yet decoded. */
export interface FoundSample {
  id: string;
  captions: string[];
  image: { path: string; offset?: number; size?: number };
}

export interface SourceOptions {
  /** Folder of images, tar or brace pattern of tars, or a JSON or JSONL file of captions. */
  source: string;
  /** Where the files that a JSON or JSONL file names are; default: beside it. */
  images?: string | undefined;
  /** Of Karpathy's JSON: train, restval, val or test, or several with commas; default: all. */
  split?: string | undefined;
}

const imageExtensions = new Set([".png", ".jpg", ".jpeg", ".webp"]);

/**
 * Finds images with captions. Read as what they look like: tars as WebDataset shards; `.json` as COCO captions or Karpathy's splits;
 * `.jsonl` as rows with `image` (or `file_name`) and `caption`, `captions` or `text`; a folder by its `metadata.jsonl`, or else
 * images with captions line by line in `.txt` files of the same name.
 * @throws SynthError `SYNTH_DATA` when the source is not there or is none of these
 */
export function findSamples(options: SourceOptions, problems: Problems): AsyncIterable<FoundSample> {
  const { source } = options;
  if (/\.tar$/.test(source)) return fromTars(existsSync(source) ? [source] : expandBraces(source), problems);
  if (/\.jsonl$/.test(source)) return fromJsonLines(options, problems);
  if (/\.json$/.test(source)) return fromJson(options, problems);
  return fromFolder(options, problems);
}

async function* fromFolder(options: SourceOptions, problems: Problems): AsyncIterable<FoundSample> {
  const { source } = options;
  const names = await readdir(source).catch((cause: unknown) => {
    throw new SynthError("SYNTH_DATA", `${source} is no folder, tar, .json or .jsonl that can be read`, { cause });
  });
  if (names.includes("metadata.jsonl")) {
    yield* fromJsonLines({ ...options, source: join(source, "metadata.jsonl") }, problems);
    return;
  }
  for (const name of names.sort()) {
    if (!imageExtensions.has(extname(name).toLowerCase())) continue;
    const path = join(source, name);
    const beside = join(source, `${basename(name, extname(name))}.txt`);
    const text = await readText(beside, 1 << 20).catch(() => undefined);
    if (text === undefined) {
      problems.add(path, "no caption file beside it");
      continue;
    }
    const captions = usableCaptions(text.trimEnd().split("\n"), beside, problems);
    if (captions.length > 0) yield { id: basename(name, extname(name)), captions, image: { path } };
  }
}

/** @throws Error when the file is larger than `limit` bytes */
async function readText(path: string, limit: number): Promise<string> {
  const { size } = await stat(path);
  if (size > limit) throw new RangeError(`${path} has ${size} bytes`);
  return await readFile(path, "utf8");
}

/** The path of a named file, if it stays inside the folder. */
function inside(folder: string, name: unknown): string | undefined {
  if (typeof name !== "string" || name === "" || name.includes("\0") || isAbsolute(name)) return undefined;
  const path = resolve(folder, name);
  return path.startsWith(resolve(folder) + sep) ? path : undefined;
}

async function* fromJsonLines({ source, images }: SourceOptions, problems: Problems): AsyncIterable<FoundSample> {
  const folder = images ?? dirname(source);
  await using file = await openSource(source);
  let line = 0;
  for await (const text of file.readLines()) {
    line++;
    if (text.trim() === "") continue;
    const where = `${source}:${line}`;
    const row = parseObject(text);
    if (!row) {
      problems.add(where, "line is not a JSON object");
      continue;
    }
    const path = inside(folder, row.image ?? row.file_name ?? row.image_path);
    if (path === undefined) {
      problems.add(where, "names no image inside the folder");
      continue;
    }
    const given = captionsOf(row);
    if (given.length === 0) problems.add(where, "no caption");
    const captions = usableCaptions(given, where, problems);
    if (captions.length > 0) yield { id: nameOf(row.id) ?? String(line), captions, image: { path } };
  }
}

async function openSource(path: string): Promise<FileHandle> {
  return await open(path).catch((cause: unknown) => {
    throw new SynthError("SYNTH_DATA", `${path} cannot be read`, { cause });
  });
}

function parseObject(text: string): Record<string, unknown> | undefined {
  try {
    // Files of Windows may begin with a byte order mark.
    const value: unknown = JSON.parse(text.replace(/^\uFEFF/, ""));
    return isObject(value) ? value : undefined;
  } catch {
    return undefined;
  }
}

const isObject = (value: unknown): value is Record<string, unknown> =>
  typeof value === "object" && value !== null && !Array.isArray(value);

/** What a sample is called: text or a number. */
const nameOf = (id: unknown): string | undefined =>
  typeof id === "string" || typeof id === "number" ? String(id) : undefined;

/** `caption`, `captions` or `text`: one or a list. `annotations` may be JSON in a string, as open-muse writes COCO. */
function captionsOf(row: Record<string, unknown>): unknown[] {
  const given = row.captions ?? row.caption ?? row.text;
  if (given !== undefined) return Array.isArray(given) ? given : [given];
  let annotations = row.annotations;
  if (typeof annotations === "string") {
    try {
      annotations = JSON.parse(annotations);
    } catch {
      return [];
    }
  }
  const list = Array.isArray(annotations) ? annotations : [annotations];
  return list.flatMap((each: unknown) =>
    typeof each === "object" && each !== null && "caption" in each ? [each.caption] : [],
  );
}

async function* fromJson(options: SourceOptions, problems: Problems): AsyncIterable<FoundSample> {
  const { source, images = dirname(source), split } = options;
  const root = parseObject(
    await readFile(source, "utf8").catch((cause: unknown) => {
      throw new SynthError("SYNTH_DATA", `${source} cannot be read`, { cause });
    }),
  );
  const listed = root?.images;
  if (!root || !Array.isArray(listed)) {
    throw new SynthError(
      "SYNTH_DATA",
      `${source} is neither COCO captions nor Karpathy's JSON: it has no list "images"`,
    );
  }
  const annotations = Array.isArray(root.annotations) ? (root.annotations as unknown[]) : undefined;
  const captions = new Map<unknown, unknown[]>();
  for (const [i, annotation] of (annotations ?? []).entries()) {
    if (!isObject(annotation)) {
      problems.add(`${source}: annotation ${i}`, "annotation is not a JSON object");
      continue;
    }
    const { image_id: id, caption } = annotation;
    const list = captions.get(id);
    if (list) list.push(caption);
    else captions.set(id, [caption]);
  }
  const splits = split?.split(",");
  for (const [i, row] of (listed as unknown[]).entries()) {
    if (!isObject(row)) {
      problems.add(`${source}: image ${i} of the list`, "image is not a JSON object");
      continue;
    }
    if (splits && !splits.includes(String(row.split))) continue;
    const id = nameOf(row.id ?? row.cocoid ?? row.imgid ?? row.filename) ?? `${i} of the list`;
    const where = `${source}: image ${id}`;
    const name = row.file_name ?? (row.filepath ? `${row.filepath}/${row.filename}` : row.filename);
    const path = inside(images, name);
    if (path === undefined) {
      problems.add(where, "names no image inside the folder");
      continue;
    }
    const sentences = Array.isArray(row.sentences) ? row.sentences.map((each: { raw?: unknown }) => each?.raw) : [];
    const usable = usableCaptions(annotations ? (captions.get(row.id) ?? []) : sentences, where, problems);
    if (usable.length > 0) yield { id, captions: usable, image: { path } };
    else problems.add(where, "no usable caption");
  }
}

async function* fromTars(paths: readonly string[], problems: Problems): AsyncIterable<FoundSample> {
  for (const path of paths) {
    const file = await open(path).catch(() => undefined);
    if (!file) {
      problems.add(path, "shard cannot be opened");
      continue;
    }
    try {
      let samples = 0;
      for await (const members of groups(readTar(file, path), path, problems)) {
        samples++;
        const sample = await fromMembers(file, path, members, problems);
        if (sample) yield sample;
      }
      if (samples === 0) problems.add(path, "shard is empty");
    } finally {
      await file.close();
    }
  }
}

/** Longest list of files that belong to one sample. */
const mostMembers = 64;

/** Consecutive members whose names are equal up to the first point of the file name. */
async function* groups(members: AsyncIterable<TarMember>, path: string, problems: Problems) {
  let group: TarMember[] = [];
  let key: string | undefined;
  try {
    for await (const member of members) {
      const name = normalize(member.name);
      if (isAbsolute(name) || name.startsWith("..")) {
        problems.add(`${path}: ${member.name}`, "member's name leaves the tar");
        continue;
      }
      const next = keyOf(member.name);
      if (next !== key && group.length > 0) {
        yield group;
        group = [];
      }
      key = next;
      if (group.length < mostMembers) group.push(member);
    }
  } catch (error) {
    if (!(error instanceof SynthError)) throw error;
    // What came whole before the broken place is kept.
    problems.add(path, error.message);
  }
  if (group.length > 0) yield group;
}

const keyOf = (name: string): string => join(dirname(name), basename(name).replace(/\..*$/, ""));

async function fromMembers(
  file: FileHandle,
  path: string,
  members: readonly TarMember[],
  problems: Problems,
): Promise<FoundSample | undefined> {
  const id = keyOf(members[0]!.name);
  const where = `${path}: ${id}`;
  const find = (...extensions: string[]) =>
    members.find(({ name }) => extensions.includes(name.slice(name.lastIndexOf(".")).toLowerCase()));
  const image = find(...imageExtensions);
  if (!image) {
    problems.add(where, "no image");
    return undefined;
  }
  const [text, json] = [find(".txt"), find(".json")];
  const captions: unknown[] = [];
  for (const member of [text, json]) {
    if (!member || captions.length > 0) continue;
    if (member.size > 1 << 20) {
      problems.add(`${path}: ${member.name}`, "caption file larger than 1 MiB");
      continue;
    }
    const bytes = Buffer.alloc(member.size);
    await file.read(bytes, 0, member.size, member.offset);
    const content = bytes.toString("utf8");
    captions.push(...(member === text ? content.trimEnd().split("\n") : captionsOf(parseObject(content) ?? {})));
  }
  const usable = usableCaptions(captions, where, problems);
  if (usable.length === 0) {
    problems.add(where, "no usable caption");
    return undefined;
  }
  return { id, captions: usable, image: { path, offset: image.offset, size: image.size } };
}
