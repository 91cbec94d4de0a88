import { createHash } from "node:crypto";
import { mkdir, open, rename, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { type Progress, requireFreeOutput, temporaryFolderFor } from "@trefoil/core";
import { SynthError } from "../errors.js";
import type { PairedDataset } from "../types.js";
import { DecodePool } from "./decode-pool.js";
import { DATASET_FILES, type DatasetDescription } from "./prepared.js";
import { Problems } from "./problems.js";
import { type FoundSample, findSamples, type SourceOptions } from "./sources.js";

export interface PrepareImagesOptions extends SourceOptions {
  /** Folder to make. */
  output: string;
  /** Width and height of every image, pixels. */
  size: number;
  /** Stop after this many samples. */
  limit?: number | undefined;
  /** Threads that decode; one leaves the other cores to training. */
  threads: number;
  overwrite: boolean;
  progress?: Progress;
  signal?: AbortSignal;
}

/** Images that are decoded at one time, per thread. */
const inFlight = 4;

/**
 * Decodes images with captions once, in worker threads and bounded memory, into a folder that stages read at random: pixels in one file,
 * captions in another, and the list of what was left out. The folder appears whole or not at all.
 * @throws SynthError `SYNTH_DATA` when no sample is usable, OutputExistsError
 */
export async function prepareImages(options: PrepareImagesOptions): Promise<{ samples: number; problems: Problems }> {
  const { size, threads, limit = Number.POSITIVE_INFINITY, progress, signal } = options;
  const problems = new Problems();
  const stage = progress?.stage("prepare", { unit: "images" });
  let samples = 0;
  await using folder = await DatasetFolder.create(options, problems);
  await using pool = new DecodePool(threads);
  const queue: { sample: FoundSample; pixels: Promise<Uint8Array | undefined> }[] = [];
  const writeOldest = async (): Promise<void> => {
    const { sample, pixels } = queue.shift()!;
    const decoded = await pixels;
    if (!decoded) return;
    await folder.add(sample.id, decoded, sample.captions);
    samples++;
    stage?.update(samples);
  };
  for await (const sample of findSamples(options, problems)) {
    if (signal?.aborted || samples + queue.length >= limit) break;
    const where = sample.image.offset === undefined ? sample.image.path : `${sample.image.path}: ${sample.id}`;
    const pixels = pool.decode(sample.image, size).catch((error: unknown) => {
      if (!(error instanceof SynthError)) throw error;
      problems.add(where, error.message);
      return undefined;
    });
    queue.push({ sample, pixels });
    if (queue.length >= threads * inFlight) await writeOldest();
  }
  while (queue.length > 0) await writeOldest();
  signal?.throwIfAborted();
  if (samples === 0) {
    stage?.fail();
    const why = problems.total > 0 ? problems.toString() : "it is empty";
    throw new SynthError("SYNTH_DATA", `${options.source} has no usable image with a caption (${why})`);
  }
  await folder.finish();
  stage?.succeed();
  return { samples, problems };
}

/** Writes a dataset, such as one of the built-in world, as a prepared folder. */
export async function saveDataset(
  dataset: PairedDataset,
  options: { output: string; source: string; overwrite: boolean },
): Promise<void> {
  await using folder = await DatasetFolder.create({ ...options, size: dataset.size }, new Problems());
  for (let i = 0; i < dataset.length; i++) {
    const { id, image, captions, attributes } = await dataset.get(i);
    await folder.add(id, image, captions, attributes);
  }
  await folder.finish();
}

/** A prepared folder in the making, under a temporary name. */
class DatasetFolder implements AsyncDisposable {
  readonly #hash = createHash("sha256");
  #count = 0;

  private constructor(
    readonly work: string,
    readonly temporary: string,
    readonly options: { output: string; source: string; size: number; overwrite: boolean },
    readonly problems: Problems,
    readonly images: Awaited<ReturnType<typeof open>>,
    readonly samples: Awaited<ReturnType<typeof open>>,
  ) {}

  static async create(options: DatasetFolder["options"], problems: Problems): Promise<DatasetFolder> {
    requireFreeOutput(options);
    // What a kill leaves there, the next run removes.
    const work = await temporaryFolderFor(options.output);
    const temporary = join(work, "dataset");
    await mkdir(temporary);
    const images = await open(join(temporary, DATASET_FILES.images), "w");
    const samples = await open(join(temporary, DATASET_FILES.samples), "w");
    return new DatasetFolder(work, temporary, options, problems, images, samples);
  }

  async add(id: string, pixels: Uint8Array, captions: readonly string[], attributes?: object): Promise<void> {
    const line = `${JSON.stringify({ id, captions, ...(attributes && { attributes }) })}\n`;
    await this.images.write(pixels);
    await this.samples.write(line);
    this.#hash.update(pixels).update(line);
    this.#count++;
  }

  async finish(): Promise<void> {
    const { output, source, size } = this.options;
    const description: DatasetDescription = {
      format: "trefoil-paired-images",
      version: 1,
      source,
      size,
      samples: this.#count,
      skipped: Object.fromEntries(this.problems.counts),
      hash: this.#hash.digest("hex"),
    };
    await writeFile(join(this.temporary, DATASET_FILES.description), `${JSON.stringify(description, null, 2)}\n`);
    const skipped = this.problems.list.map((problem) => `${JSON.stringify(problem)}\n`).join("");
    await writeFile(join(this.temporary, DATASET_FILES.skipped), skipped);
    for (const file of [this.images, this.samples]) await file.sync();
    await rm(output, { recursive: true, force: true });
    await rename(this.temporary, output);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.images.close();
    await this.samples.close();
    await rm(this.work, { recursive: true, force: true });
  }
}
