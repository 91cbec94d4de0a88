import { existsSync } from "node:fs";
import { mkdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import {
  lockDirectory,
  ResumeError,
  SafetensorsFile,
  type StageContext,
  type StoredTensor,
  saveSafetensors,
  writeFileAtomic,
} from "@trefoil/core";
import { type DrawingOptions, type DrawnPictures, type PictureGenerator, pictureSampler } from "../drawing/index.js";
import { SynthError } from "../errors.js";
import { encodeCaption } from "../generator/index.js";
import { MaskedGenerator } from "../generator/masked-model.js";
import { toBytes } from "../images/pixels.js";
import { pictureSeed } from "../sampling/index.js";
import type { VqImageTokenizer } from "../tokenizer/index.js";

export interface CaptionRow {
  /** Names the picture: with the seed it decides what is drawn. Equal ids and captions give equal pictures. */
  id: string;
  caption: string;
}

export interface SynthesizeOptions extends StageContext, DrawingOptions {
  generator: PictureGenerator;
  tokenizer: VqImageTokenizer;
  captions: AsyncIterable<CaptionRow> | Iterable<CaptionRow>;
  /** Folder of the shards. */
  output: string;
  seed: number;
  /** Pictures of a shard. */
  shardSize: number;
  /** Decode pictures too, as `pixels` u8 [n, S, S, 3]. */
  pixels?: boolean;
  /** Hash of the text tokenizer that the captions were made with, to be sure that it is the generator's. */
  vocabulary?: string;
}

export interface SynthesizeResult {
  completed: boolean;
  pictures: number;
  shards: number;
  /** Captions longer than the generator reads. */
  skipped: number;
}

const manifestFile = "synthesis.json";
const lockFile = "synthesis.lock";
const shardName = (shard: number): string => `shard-${String(shard).padStart(5, "0")}`;

/**
 * Draws an embedding for every caption. Shard after shard appears whole: `shard-00000.safetensors` with `embeddings` f32 [n, L, D] and
 * `codes` i32 [n, L], after `shard-00000.jsonl` with id and caption. Memory is bounded by one shard. Called again on a folder that was
 * begun, it goes on behind the last whole shard and ends with the same files.
 * @throws SynthError `SYNTH_TOKENIZER_MISMATCH`, `SYNTH_VOCABULARY_MISMATCH`; `SYNTH_DATA` without a caption; ResumeError where the folder was begun otherwise,
 *   RunDirectoryError where another process writes it
 */
export async function synthesize(options: SynthesizeOptions): Promise<SynthesizeResult> {
  const { generator, tokenizer, captions, output, seed, shardSize, pixels = false, signal } = options;
  const sampler = pictureSampler(generator, tokenizer, options);
  if (options.vocabulary !== undefined && options.vocabulary !== generator.text.hash) {
    throw new SynthError(
      "SYNTH_VOCABULARY_MISMATCH",
      "the captions were made with another vocabulary than the generator's: give captions as text, or train the generator with that tokenizer",
    );
  }
  const manifest = {
    tokenizer: tokenizer.hash,
    generator: generator.hash,
    positions: tokenizer.positions,
    dimension: tokenizer.dimension,
    // What another kind of generator would do does not matter.
    ...(generator.model instanceof MaskedGenerator ? { sampling: options.sampling } : { diffusion: options.diffusion }),
    seed,
    shardSize,
    pixels,
  };
  await using folder = await ShardFolder.open(output, manifest);
  const stage = options.progress?.stage("synthesize", { unit: "pictures" });
  const result: SynthesizeResult = { completed: true, pictures: 0, shards: 0, skipped: 0 };
  const write = async (rows: readonly EncodedRow[]): Promise<void> => {
    await folder.begin();
    const name = join(output, shardName(result.shards));
    const lines = `${rows.map(({ id, caption }) => JSON.stringify({ id, caption })).join("\n")}\n`;
    if (existsSync(`${name}.safetensors`)) await checkShard(name, lines);
    else {
      const drawn = await sampler.draw({
        captions: rows.map(({ tokens }) => tokens),
        seeds: rows.map(({ id, caption }) => pictureSeed(seed, `${id}\0${caption}`)),
        ...(signal && { signal }),
      });
      await writeFileAtomic(`${name}.jsonl`, lines);
      // The tensors come last: where they are, the shard is whole.
      const tensors = await shardTensors(tokenizer, drawn, rows.length, pixels);
      await saveSafetensors(`${name}.safetensors`, tensors, { tokenizer: tokenizer.hash, generator: generator.hash });
    }
    result.shards++;
    result.pictures += rows.length;
    stage?.update(result.pictures);
  };
  try {
    let rows: EncodedRow[] = [];
    for await (const { id, caption } of captions) {
      signal?.throwIfAborted();
      try {
        const tokens = encodeCaption(caption, generator.text, generator.model.architecture.maxTextTokens);
        rows.push({ id, caption, tokens });
      } catch (error) {
        if (!(error instanceof SynthError)) throw error;
        result.skipped++;
      }
      if (rows.length < shardSize) continue;
      await write(rows);
      rows = [];
    }
    if (rows.length > 0) await write(rows);
    folder.requireEnd(result.shards);
    if (result.pictures === 0) {
      const why = result.skipped > 0 ? `${result.skipped} were too long` : "the file is empty";
      throw new SynthError("SYNTH_DATA", `there is no caption that the generator reads: ${why}`);
    }
    stage?.succeed();
  } catch (error) {
    stage?.fail();
    if (!signal?.aborted) throw error;
    result.completed = false;
  }
  return result;
}

interface EncodedRow extends CaptionRow {
  tokens: Int32Array;
}

/** A folder of shards, which one process at a time writes. */
class ShardFolder implements AsyncDisposable {
  readonly #manifest: string;
  #unlock: (() => Promise<void>) | undefined;

  private constructor(
    readonly path: string,
    manifest: object,
  ) {
    this.#manifest = `${JSON.stringify(manifest, null, 2)}\n`;
  }

  /** Of a folder that was begun; any other appears once there is something to write. @throws ResumeError, RunDirectoryError */
  static async open(path: string, manifest: object): Promise<ShardFolder> {
    const folder = new ShardFolder(path, manifest);
    try {
      if (existsSync(join(path, manifestFile))) await folder.begin();
      return folder;
    } catch (error) {
      await folder[Symbol.asyncDispose]();
      throw error;
    }
  }

  async begin(): Promise<void> {
    if (this.#unlock) return;
    await mkdir(this.path, { recursive: true });
    this.#unlock = await lockDirectory(join(this.path, lockFile), new Date());
    const path = join(this.path, manifestFile);
    if (!existsSync(path)) await writeFileAtomic(path, this.#manifest);
    else if ((await readFile(path, "utf8")) !== this.#manifest) {
      throw new ResumeError(
        `${this.path} was begun with other models or settings: go on with the same ones, or name another folder`,
      );
    }
  }

  /** @throws ResumeError when there are more shards than were written now: they hold other captions */
  requireEnd(shards: number): void {
    if (!existsSync(join(this.path, `${shardName(shards)}.safetensors`))) return;
    throw new ResumeError(
      `${this.path} holds more than these captions: go on with the same ones, or name another folder`,
    );
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#unlock?.();
  }
}

/** A shard that is there must be of the same captions. */
async function checkShard(name: string, lines: string): Promise<void> {
  await using _ = await SafetensorsFile.open(`${name}.safetensors`);
  if ((await readFile(`${name}.jsonl`, "utf8")) === lines) return;
  throw new ResumeError(`${name} holds other captions: go on with the same ones, or name another folder`);
}

async function shardTensors(
  tokenizer: VqImageTokenizer,
  { codes, embeddings }: DrawnPictures,
  count: number,
  pixels: boolean,
): Promise<Record<string, StoredTensor>> {
  const { positions, dimension, imageSize } = tokenizer;
  const tensors: Record<string, StoredTensor> = {
    codes: { dtype: "I32", shape: [count, positions], data: codes },
    embeddings: { dtype: "F32", shape: [count, positions, dimension], data: embeddings },
  };
  if (!pixels) return tensors;
  const data = toBytes(await tokenizer.decodeEmbeddings(embeddings, count));
  return { ...tensors, pixels: { dtype: "U8", shape: [count, imageSize, imageSize, 3], data } };
}
