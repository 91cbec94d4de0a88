import { type FileHandle, open, readFile, stat } from "node:fs/promises";
import { join } from "node:path";
import { reasonOf } from "@trefoil/core";
import { z } from "zod";
import { SynthError } from "../errors.js";
import type { PairedDataset, PairedSample, SceneAttributes } from "../types.js";

export const DATASET_FILES = {
  description: "dataset.json",
  images: "images.bin",
  samples: "samples.jsonl",
  skipped: "skipped.jsonl",
} as const;

const descriptionSchema = z.object({
  format: z.literal("trefoil-paired-images"),
  version: z.literal(1),
  source: z.string(),
  /** Width and height, pixels. */
  size: z.number().int().min(1).max(4096),
  samples: z.number().int().min(1),
  /** How many were left out, by reason. */
  skipped: z.record(z.string(), z.number()),
  /** SHA-256 of pixels and captions. */
  hash: z.string(),
});
export type DatasetDescription = z.output<typeof descriptionSchema>;

type Row = Pick<PairedSample, "id" | "captions"> & { attributes?: SceneAttributes };

/** A folder that `prepareImages` made: captions in memory, pixels read when asked for. */
export class PreparedDataset implements PairedDataset, AsyncDisposable {
  readonly length: number;
  readonly size: number;
  readonly hash: string;
  readonly #rows: readonly Row[];
  readonly #images: FileHandle;

  private constructor({ size, hash }: DatasetDescription, rows: readonly Row[], images: FileHandle) {
    this.length = rows.length;
    this.size = size;
    this.hash = hash;
    this.#rows = rows;
    this.#images = images;
  }

  /** @throws SynthError `SYNTH_DATA` when the folder is not such a one or its files do not fit together */
  static async open(path: string): Promise<PreparedDataset> {
    const broken = (reason: string, cause?: unknown) =>
      new SynthError("SYNTH_DATA", `${path} is not a prepared dataset (synth2 prepare makes one): ${reason}`, {
        cause,
      });
    let description: DatasetDescription;
    let rows: Row[];
    try {
      description = descriptionSchema.parse(JSON.parse(await readFile(join(path, DATASET_FILES.description), "utf8")));
      rows = (await readFile(join(path, DATASET_FILES.samples), "utf8"))
        .trimEnd()
        .split("\n")
        .map((line) => JSON.parse(line) as Row);
    } catch (cause) {
      throw broken(reasonOf(cause), cause);
    }
    const { size, samples } = description;
    const { size: bytes } = await stat(join(path, DATASET_FILES.images)).catch((cause: unknown) => {
      throw broken(`no ${DATASET_FILES.images}`, cause);
    });
    if (rows.length !== samples || bytes !== samples * size * size * 3) {
      throw broken(`${samples} samples, but ${rows.length} captions and ${bytes} bytes of pixels`);
    }
    return new PreparedDataset(description, rows, await open(join(path, DATASET_FILES.images)));
  }

  async get(index: number): Promise<PairedSample> {
    const row = this.#rows[index];
    if (!row) throw new RangeError(`sample ${index} of ${this.length}`);
    const bytes = this.size * this.size * 3;
    const image = new Uint8Array(bytes);
    await this.#images.read(image, 0, bytes, index * bytes);
    return { ...row, image };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#images.close();
  }
}
