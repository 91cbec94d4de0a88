import { readFile } from "node:fs/promises";
import { z } from "zod";
import { SynthError } from "../errors.js";
import { worldClasses } from "../world/index.js";

export const classesField = z
  .string()
  .min(1)
  .describe("Text file of classes, one a line. Default: those of the built-in world.")
  .meta({ placeholder: "classes.txt" })
  .optional();

/** @throws SynthError `SYNTH_OPTIONS` */
export async function readClasses(path: string | undefined): Promise<readonly string[]> {
  if (path === undefined) return worldClasses;
  const text = await readFile(path, "utf8").catch((cause: unknown) => {
    throw new SynthError("SYNTH_OPTIONS", `${path} cannot be read: give a text file of classes`, { cause });
  });
  const classes = text.split("\n").flatMap((line) => (line.trim() === "" ? [] : [line.trim()]));
  if (classes.length === 0) throw new SynthError("SYNTH_OPTIONS", `${path} names no class: write one a line`);
  return classes;
}
