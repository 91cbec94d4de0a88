import { existsSync } from "node:fs";
import { mkdir, open, readFile } from "node:fs/promises";
import { join } from "node:path";
import { lockDirectory, Permutation, ResumeError, type StageContext, writeFileAtomic } from "@trefoil/core";
import { z } from "zod";
import { SynthError } from "../errors.js";
import { tokeniseCaption } from "../metrics/index.js";
import { parseCaption } from "../world/index.js";
import type { CaptionSource } from "./sources.js";

export const REJECTIONS = ["unfinished", "short", "long", "ungrammatical", "duplicate"] as const;
export type Rejection = (typeof REJECTIONS)[number];

export interface CaptionFilter {
  /** Words of a caption. */
  minWords: number;
  maxWords: number;
  /** `world`: captions that the built-in world's grammar does not know are rejected. */
  grammar: "none" | "world";
  /** Whether a caption may be written twice. */
  duplicates: boolean;
}

export interface WriteCaptionsOptions extends StageContext {
  source: CaptionSource;
  /** Drawn alike: a class that stands there twice is drawn twice as often. */
  classes: readonly string[];
  /** Captions to write. */
  count: number;
  /** Folder of `captions.jsonl`. */
  output: string;
  filter: CaptionFilter;
  seed: number;
  /** Requests per caption, after which the source is given up. */
  attempts: number;
}

export interface WriteCaptionsResult {
  completed: boolean;
  captions: string[];
  requests: number;
  rejected: Record<Rejection, number>;
}

const stateSchema = z.strictObject({
  manifest: z.string(),
  rounds: z.number(),
  /** Of `captions.jsonl` after these rounds. */
  bytes: z.number(),
  rejected: z.record(z.enum(REJECTIONS), z.number()),
});
type State = z.infer<typeof stateSchema>;

const captionsFile = "captions.jsonl";
const stateFile = "state.json";
const lockFile = "captions.lock";

/** Words of a caption as one text: what tells captions apart. */
const wordsKey = (text: string): string => tokeniseCaption(text).join(" ");

/**
 * Writes captions of classes drawn at random, round by round, into `captions.jsonl` (`id`, `class`, `caption` a line), and keeps only those
 * that pass the filter. Killed at any instant and called again, it goes on behind the last whole round and ends with the same file.
 * @throws SynthError `SYNTH_CAPTIONER` where the source fails or too little passes, `SYNTH_DATA` where the folder is damaged; ResumeError
 *   where it was begun otherwise, RunDirectoryError where another process writes it
 */
export async function writeCaptions(options: WriteCaptionsOptions): Promise<WriteCaptionsResult> {
  const { source, classes, count, output, filter, seed, attempts, progress, signal } = options;
  if (classes.length === 0) throw new SynthError("SYNTH_OPTIONS", "there are no classes to write captions of");
  const manifest = JSON.stringify({ source: source.name, classes, filter, seed });
  await mkdir(output, { recursive: true });
  await using _ = { [Symbol.asyncDispose]: await lockDirectory(join(output, lockFile), new Date()) };
  const state = await readState(output, manifest);
  const captions = await keptCaptions(output, state.bytes);
  const seen = new Set(captions.map(wordsKey));
  const result = (completed: boolean): WriteCaptionsResult => ({
    completed,
    captions,
    requests: state.rounds * source.batch,
    rejected: state.rejected,
  });
  const stage = progress?.stage("captions", { total: count, unit: "captions" });
  const file = await open(join(output, captionsFile), existsSync(join(output, captionsFile)) ? "r+" : "w+");
  try {
    // What a killed round left behind.
    await file.truncate(state.bytes);
    while (captions.length < count) {
      if (state.rounds * source.batch >= attempts * count) {
        const asked = state.rounds * source.batch;
        const advice =
          state.rejected.unfinished > asked / 2
            ? "give captions more tokens, or a model that ends them"
            : "loosen the filter, or ask for fewer";
        throw new SynthError(
          "SYNTH_CAPTIONER",
          `only ${captions.length} of ${count} captions passed among ${asked} (${summary(state.rejected)}): ${advice}`,
        );
      }
      const requests = Array.from({ length: source.batch }, (_, i) => {
        const index = state.rounds * source.batch + i;
        const order = new Permutation(classes.length, seed, Math.floor(index / classes.length));
        return { class: classes[order.at(index % classes.length)]!, index };
      });
      const written = await source.write(requests, seed, signal);
      if (signal?.aborted) break;
      let lines = "";
      written.forEach(({ text, finished }, i) => {
        if (captions.length === count) return;
        const rejection = finished ? rejectionOf(text, filter, seen) : "unfinished";
        if (rejection) {
          state.rejected[rejection]++;
          return;
        }
        seen.add(wordsKey(text));
        captions.push(text);
        const { class: name, index } = requests[i]!;
        lines += `${JSON.stringify({ id: String(index), class: name, caption: text })}\n`;
      });
      await file.write(lines, state.bytes);
      await file.sync();
      state.bytes += Buffer.byteLength(lines);
      state.rounds++;
      await writeState(output, state);
      stage?.update(Math.min(captions.length, count));
    }
    const completed = captions.length >= count;
    if (completed) stage?.succeed();
    else stage?.fail();
    return result(completed);
  } catch (error) {
    stage?.fail();
    if (!signal?.aborted) throw error;
    return result(false);
  } finally {
    await file.close();
  }
}

/** "3 × duplicate, 1 × long" */
export const summary = (rejected: Readonly<Record<Rejection, number>>): string =>
  REJECTIONS.flatMap((name) => (rejected[name] > 0 ? [`${rejected[name]} × ${name}`] : [])).join(", ") ||
  "none rejected";

function rejectionOf(text: string, filter: CaptionFilter, seen: ReadonlySet<string>): Rejection | undefined {
  // Far longer texts are not worth splitting into words.
  if (text.length > 64 * filter.maxWords) return "long";
  const words = tokeniseCaption(text);
  if (words.length < filter.minWords) return "short";
  if (words.length > filter.maxWords) return "long";
  if (filter.grammar === "world" && !parseCaption(text)) return "ungrammatical";
  return !filter.duplicates && seen.has(words.join(" ")) ? "duplicate" : undefined;
}

async function readState(output: string, manifest: string): Promise<State> {
  const path = join(output, stateFile);
  if (!existsSync(path)) {
    if (existsSync(join(output, captionsFile))) {
      throw new ResumeError(`${output} holds captions of something else: name another folder`);
    }
    const rejected = Object.fromEntries(REJECTIONS.map((name) => [name, 0])) as Record<Rejection, number>;
    const state = { manifest, rounds: 0, bytes: 0, rejected };
    await writeState(output, state);
    return state;
  }
  let state: State;
  try {
    state = stateSchema.parse(JSON.parse(await readFile(path, "utf8")));
  } catch (cause) {
    throw damaged(path, cause);
  }
  if (state.manifest === manifest) return state;
  throw new ResumeError(
    `${output} was begun with another source, classes or filter: go on with the same ones, or name another folder`,
  );
}

const writeState = (output: string, state: State): Promise<void> =>
  writeFileAtomic(join(output, stateFile), `${JSON.stringify(state)}\n`);

async function keptCaptions(output: string, bytes: number): Promise<string[]> {
  if (bytes === 0) return [];
  const path = join(output, captionsFile);
  try {
    const content = await readFile(path);
    if (content.length < bytes) throw new RangeError(`${content.length} bytes instead of ${bytes}`);
    const lines = content.subarray(0, bytes).toString("utf8").trimEnd().split("\n");
    return lines.map((line) => rowSchema.parse(JSON.parse(line)).caption);
  } catch (cause) {
    throw damaged(path, cause);
  }
}

const damaged = (path: string, cause: unknown): SynthError =>
  new SynthError("SYNTH_DATA", `${path} is damaged, so the run cannot go on: begin anew in another folder`, { cause });

const rowSchema = z.object({ id: z.string(), caption: z.string() });

/** Captions that `writeCaptions` wrote, as `synthesize` takes them. @throws SynthError `SYNTH_DATA` */
export async function readCaptions(folder: string): Promise<z.infer<typeof rowSchema>[]> {
  const path = join(folder, captionsFile);
  try {
    const lines = (await readFile(path, "utf8")).trimEnd().split("\n");
    return lines.map((line) => rowSchema.parse(JSON.parse(line)));
  } catch (cause) {
    throw new SynthError("SYNTH_DATA", `${path} cannot be read: give a folder that synth2 captions wrote`, { cause });
  }
}
