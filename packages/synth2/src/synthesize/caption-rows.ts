import { createReadStream } from "node:fs";
import { createInterface } from "node:readline";
import { SynthError } from "../errors.js";
import type { CaptionRow } from "./synthesize.js";

/**
 * Reads JSON lines with `caption` and, if pictures should be named, `id` (else the number of the line, from 1); other fields are left
 * alone. Streams: memory does not grow with the file.
 * @throws SynthError `SYNTH_DATA` for a line that is none
 */
export async function* readCaptionRows(path: string): AsyncGenerator<CaptionRow> {
  const lines = createInterface({ input: createReadStream(path, "utf8"), crlfDelay: Number.POSITIVE_INFINITY });
  let number = 0;
  try {
    for await (const line of lines) {
      number++;
      if (line.trim() !== "") yield captionRow(line, number, path);
    }
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ENOENT") throw error;
    throw new SynthError("SYNTH_DATA", `${path} does not exist: give a .jsonl file of captions`);
  }
}

function captionRow(line: string, number: number, path: string): CaptionRow {
  let row: unknown;
  try {
    // Files of Windows may begin with a byte order mark.
    row = JSON.parse(line.replace(/^\uFEFF/, ""));
  } catch {
    row = undefined;
  }
  const { id = String(number), caption } = (row ?? {}) as { id?: unknown; caption?: unknown };
  if (typeof caption !== "string" || (typeof id !== "string" && typeof id !== "number")) {
    throw new SynthError(
      "SYNTH_DATA",
      `${path}, line ${number}, is not an object with a "caption" (and an "id"): write {"caption": "a red circle"}`,
    );
  }
  if (caption.trim() === "") {
    throw new SynthError("SYNTH_DATA", `${path}, line ${number}, has an empty caption: leave the line out`);
  }
  return { id: String(id), caption };
}
