import { z } from "zod";

/** Fields that commands of several packages share. */

/** A folder that must be named. */
export const folderField = (meaning: string) => z.string().min(1).describe(meaning).meta({ placeholder: "folder" });

/** A whole number above 0, with a default. */
export const countField = (value: number, meaning: string) =>
  z.number().int().positive().default(value).describe(meaning);

/** Where a training command writes. */
export const outputFields = {
  output: folderField("Folder of the result, as Hugging Face lays it out."),
  run: folderField(
    "Run directory: configuration, metrics, checkpoints, report. Default: the output's name and -run.",
  ).optional(),
  resume: z.boolean().default(false).describe("Continue from the newest checkpoint of the run directory."),
  overwrite: z.boolean().default(false).describe("Replace an existing output."),
};

/** The run directory of `outputFields`. */
export const runOf = ({ run, output }: { run?: string | undefined; output: string }): string => run ?? `${output}-run`;
