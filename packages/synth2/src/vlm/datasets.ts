import { createHash } from "node:crypto";
import { existsSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { readJsonFile, reasonOf, SafetensorsFile, type StageContext } from "@trefoil/core";
import { z } from "zod";
import { SynthError } from "../errors.js";
import { encodeDataset, type VqImageTokenizer } from "../tokenizer/index.js";
import type { EmbeddedDataset, EmbeddedSample, PairedDataset, PairedSample, SceneAttributes } from "../types.js";

/** Real pictures, encoded once: codes in memory, embeddings looked up when they are asked for. */
export class CodedDataset implements EmbeddedDataset {
  private constructor(
    readonly images: VqImageTokenizer,
    readonly codes: Int32Array,
    readonly samples: readonly { id: string; captions: string[]; attributes?: SceneAttributes }[],
  ) {}

  static async encode(
    data: PairedDataset,
    images: VqImageTokenizer,
    context: StageContext = {},
  ): Promise<CodedDataset> {
    const samples: CodedDataset["samples"][number][] = [];
    const take = ({ id, captions, attributes }: PairedSample) => {
      samples.push({ id, captions, ...(attributes && { attributes }) });
    };
    return new CodedDataset(images, await encodeDataset(data, images, take, context), samples);
  }

  get length(): number {
    return this.samples.length;
  }

  get positions(): number {
    return this.images.positions;
  }

  get dimension(): number {
    return this.images.dimension;
  }

  get tokenizerHash(): string {
    return this.images.hash;
  }

  get(index: number): EmbeddedSample {
    const sample = this.samples[index];
    if (!sample) throw new RangeError(`sample ${index} of ${this.length}`);
    const { id, captions } = sample;
    const embedding = this.images.embed(this.codes.subarray(index * this.positions, (index + 1) * this.positions));
    return { id, captions, embedding };
  }
}

const manifestSchema = z.looseObject({
  tokenizer: z.string(),
  positions: z.number().int().positive(),
  dimension: z.number().int().positive(),
});
const rowSchema = z.object({ id: z.string(), caption: z.string() });

interface Shard {
  file: SafetensorsFile;
  /** Of its first picture. */
  start: number;
  rows: readonly z.infer<typeof rowSchema>[];
}

/** A folder that `synthesize` wrote: captions in memory, embeddings read from their shards when they are asked for. */
export class SyntheticDataset implements EmbeddedDataset, AsyncDisposable {
  private constructor(
    readonly positions: number,
    readonly dimension: number,
    readonly tokenizerHash: string,
    readonly length: number,
    readonly shards: readonly Shard[],
    /** Of what was drawn how, and for which captions: part of what a resumed run must find again. */
    readonly hash: string,
  ) {}

  /** @throws SynthError `SYNTH_STORE` where it is not such a folder, or a shard does not fit its captions */
  static async open(path: string): Promise<SyntheticDataset> {
    const broken = (why: string, cause?: unknown) =>
      new SynthError("SYNTH_STORE", `${path} is no synthesis (${why}): give a folder that synthesize wrote`, { cause });
    if (!existsSync(join(path, "synthesis.json"))) throw broken("no synthesis.json");
    const manifest = manifestSchema.safeParse(await readJsonFile(path, "synthesis.json"));
    if (!manifest.success) throw broken(reasonOf(manifest.error));
    const { tokenizer, positions, dimension } = manifest.data;
    const hash = createHash("sha256").update(JSON.stringify(manifest.data));
    const shards: Shard[] = [];
    let length = 0;
    try {
      for (;;) {
        const name = join(path, `shard-${String(shards.length).padStart(5, "0")}`);
        if (!existsSync(`${name}.safetensors`)) break;
        const text = await readFile(`${name}.jsonl`, "utf8");
        hash.update(text);
        const lines = text.trimEnd().split("\n");
        const pictures = lines.map((line) => rowSchema.parse(JSON.parse(line)));
        const file = await SafetensorsFile.open(`${name}.safetensors`);
        shards.push({ file, start: length, rows: pictures });
        const { dtype, shape } = file.info("embeddings");
        if (dtype !== "F32" || String(shape) !== String([pictures.length, positions, dimension])) {
          throw new Error(`${name}.safetensors does not fit its captions`);
        }
        length += pictures.length;
      }
    } catch (cause) {
      for (const { file } of shards) await file.close();
      throw broken(reasonOf(cause), cause);
    }
    if (length === 0) throw broken("no shards");
    return new SyntheticDataset(positions, dimension, tokenizer, length, shards, hash.digest("hex"));
  }

  async get(index: number): Promise<EmbeddedSample> {
    const shard = this.shards.findLast(({ start }) => start <= index);
    const row = shard?.rows[index - shard.start];
    if (!shard || !row) throw new RangeError(`sample ${index} of ${this.length}`);
    const embedding = new Float32Array(this.positions * this.dimension);
    const offset = (index - shard.start) * embedding.byteLength;
    await shard.file.readRange("embeddings", offset, new Uint8Array(embedding.buffer));
    return { id: row.id, captions: [row.caption], embedding };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const { file } of this.shards) await file.close();
  }
}
