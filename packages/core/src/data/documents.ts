import { createHash } from "node:crypto";
import { createReadStream } from "node:fs";
import { extname } from "node:path";
import { type Conversation, parseConversation, textOfConversation } from "./chat.js";
import { DataError } from "./errors.js";
import { resolveFiles } from "./files.js";

/** A document, or a part of one that is too long to hold at once. */
export interface TextDocument {
  path: string;
  text: string;
  /**
   * Hash of the document's (first part's) text without regard to white space: equal texts have equal keys, and so have the parts of one
   * document.
   */
  key: string;
  /** With the format `chat`: who says what. `text` then is all that is said. */
  conversation?: Conversation;
  /** Whether another part of the same document follows. */
  continues: boolean;
}

export interface TextSource {
  /** Files, folders and globs. `.jsonl` and `.ndjson` files hold one JSON object per line, all others plain text. */
  paths: readonly string[];
  /** Which files of a folder are read. Default `.txt`, `.md`, `.jsonl`, `.ndjson`. */
  extensions?: readonly string[];
  /** The field of a JSON line that holds the text. Default `text`. */
  field?: string;
  /** `chat`: JSON lines with `messages`, or with `prompt` and `completion`. Default `text`. */
  format?: "text" | "chat";
  /** What one document is in a plain text file: all of it, what stands between blank lines, or a line. Default `file`. */
  unit?: "file" | "paragraph" | "line";
  /** What to do with a file that is not UTF-8. Default `error`. */
  invalidUtf8?: "error" | "skip";
  /** Stop after the document with which this many bytes of text are reached. Default: no limit. */
  maxBytes?: number;
}

/** Longest text held at once, in UTF-16 units: longer documents come in parts, cut between lines where there are any. */
const maxPart = 1 << 22;

export const defaultExtensions: readonly string[] = [".txt", ".md", ".jsonl", ".ndjson"];

/**
 * Reads the documents of a source in a fixed order, holding one at a time. Documents of white space only are left out.
 * @throws DataError `DATA_NOT_FOUND`, `DATA_INVALID_TEXT`, `DATA_INVALID_JSONL`, `DATA_EMPTY`
 */
export async function* readDocuments(source: TextSource): AsyncGenerator<TextDocument> {
  const { extensions = defaultExtensions, unit = "file", invalidUtf8 = "error", maxBytes = Infinity } = source;
  let bytes = 0;
  for (const path of await resolveFiles(source.paths, extensions)) {
    const jsonLines = extname(path) === ".jsonl" || extname(path) === ".ndjson";
    if (source.format === "chat" && !jsonLines)
      throw new DataError("DATA_INVALID_OPTION", `${path}: conversations are lines of .jsonl files: leave it out`);
    const parts = jsonLines ? readJsonLines(path, source) : readUnits(path, unit);
    let key = "";
    let continued = false;
    try {
      for await (const { text, continues, conversation } of parts) {
        if (!continued && !continues && text.trim() === "") continue;
        if (!continued) key = keyOf(text);
        continued = continues;
        bytes += Buffer.byteLength(text);
        yield { path, text, key, continues, ...(conversation && { conversation }) };
        if (bytes >= maxBytes && !continues) return;
      }
    } catch (error) {
      if (invalidUtf8 === "skip" && error instanceof DataError && error.code === "DATA_INVALID_TEXT" && !continued)
        continue;
      throw error;
    }
  }
  if (bytes === 0)
    throw new DataError("DATA_EMPTY", `${source.paths.join(", ")}: there is no text: every document is empty`);
}

const keyOf = (text: string): string =>
  createHash("sha256").update(text.normalize("NFC").replace(/\s+/g, " ").trim()).digest("hex");

interface Part {
  text: string;
  continues: boolean;
  conversation?: Conversation;
}

async function* readUnits(path: string, unit: "file" | "paragraph" | "line"): AsyncGenerator<Part> {
  let held = "";
  for await (const line of readLines(path)) {
    if (held.length + line.length > maxPart && held !== "") {
      yield { text: held, continues: true };
      held = "";
    }
    held += line;
    const ends =
      unit === "line" ? line.endsWith("\n") : unit === "paragraph" && line.trim() === "" && line.endsWith("\n");
    if (!ends) continue;
    yield { text: unit === "line" ? held.replace(/\r?\n$/, "") : held, continues: false };
    held = "";
  }
  if (held !== "") yield { text: held, continues: false };
}

async function* readJsonLines(path: string, { field = "text", format }: TextSource): AsyncGenerator<Part> {
  let number = 0;
  for await (const line of readLines(path)) {
    number++;
    const invalid = (reason: string, cause?: unknown) =>
      new DataError("DATA_INVALID_JSONL", `${path}:${number}: ${reason}`, { cause });
    if (line.trim() === "") continue;
    if (line.length >= maxPart && !line.endsWith("\n")) throw invalid(`the line is longer than ${maxPart} characters`);
    let value: unknown;
    try {
      value = JSON.parse(line);
    } catch (cause) {
      throw invalid(`not JSON (${String(cause)})`, cause);
    }
    if (format === "chat") {
      const conversation = parseConversation(value);
      if (!conversation)
        throw invalid("no conversation: a line has messages with role and content, or prompt and completion");
      yield { text: textOfConversation(conversation), continues: false, conversation };
      continue;
    }
    const text =
      typeof value === "object" && value !== null && Object.hasOwn(value, field)
        ? (value as Record<string, unknown>)[field]
        : undefined;
    if (typeof text !== "string") throw invalid(`there is no text in the field "${field}": name the right one`);
    yield { text, continues: false };
  }
}

/** Lines with their line feeds. One longer than `maxPart` comes in pieces, of which only the last has a line feed. */
async function* readLines(path: string): AsyncGenerator<string> {
  let held = "";
  for await (const chunk of readText(path)) {
    const text = held + chunk;
    let start = 0;
    for (let end = text.indexOf("\n"); end >= 0; end = text.indexOf("\n", start)) {
      yield text.slice(start, end + 1);
      start = end + 1;
    }
    held = text.slice(start);
    while (held.length >= maxPart) {
      const splitsPair = (held.charCodeAt(maxPart - 1) & 0xfc00) === 0xd800;
      const cut = splitsPair ? maxPart + 1 : maxPart;
      if (held.length < cut) break;
      yield held.slice(0, cut);
      held = held.slice(cut);
    }
  }
  if (held !== "") yield held;
}

async function* readText(path: string): AsyncGenerator<string> {
  const decoder = new TextDecoder("utf-8", { fatal: true });
  const decode = (chunk?: Uint8Array): string => {
    try {
      return chunk ? decoder.decode(chunk, { stream: true }) : decoder.decode();
    } catch (cause) {
      throw new DataError(
        "DATA_INVALID_TEXT",
        `${path} is not UTF-8 text: convert it, leave it out, or set invalidUtf8 to "skip"`,
        { cause },
      );
    }
  };
  for await (const chunk of createReadStream(path, { highWaterMark: 1 << 18 })) yield decode(chunk as Uint8Array);
  yield decode();
}
