import type { LanguageModel } from "../captions/index.js";
import type { OpenMaskedGenerator } from "../generator/index.js";
import { toBytes, toUnit } from "../images/pixels.js";
import { maxCaptionTokens, type PipelineSettings } from "../pipeline/index.js";
import type { CaptionRow } from "../synthesize/index.js";
import type { VqImageTokenizer } from "../tokenizer/index.js";
import type { EmbeddedDataset, EmbeddedSample } from "../types.js";
import { OnTheFlyDataset, type SyntheticDataset, VlmTrainer, vlmArchitecture } from "../vlm/index.js";

export const STAGES = ["generate", "decode", "encode", "train"] as const;
export type StageName = (typeof STAGES)[number];

/** One way of training on synthetic pictures. */
export interface EfficiencyCell {
  generation: "cached" | "on the fly";
  path: "embeddings" | "pixels";
  /** CPU seconds of an update, by what they go to. */
  seconds: Record<StageName, number>;
  /** Resident memory at its peak of a process that does this alone, bytes. */
  peakBytes: number;
  /** What the cache holds of a picture, bytes. */
  cachedBytes: number;
}

export type Way = Pick<EfficiencyCell, "generation" | "path">;

export const ways: readonly Way[] = [
  { generation: "cached", path: "embeddings" },
  { generation: "cached", path: "pixels" },
  { generation: "on the fly", path: "embeddings" },
  { generation: "on the fly", path: "pixels" },
];

export interface EfficiencyInputs {
  pipeline: PipelineSettings;
  seed: number;
  /** Updates to time. */
  steps: number;
  images: VqImageTokenizer;
  generator: OpenMaskedGenerator;
  language: LanguageModel;
  captions: readonly CaptionRow[];
  /** Pictures of these captions. */
  cached: SyntheticDataset;
}

/** Trains on synthetic pictures in any of the ways, update by update. */
export class SyntheticTraining implements Disposable {
  readonly #trainer: VlmTrainer;

  private constructor(
    readonly inputs: EfficiencyInputs,
    readonly live: OnTheFlyDataset,
    readonly pixels: PixelCache | undefined,
  ) {
    const { pipeline, seed, steps, language, cached } = inputs;
    const settings = { ...pipeline.vlm.train, seed, steps: steps + 1 };
    const architecture = vlmArchitecture(pipeline.vlm.model, cached, language);
    this.#trainer = new VlmTrainer(architecture, { language, maxTextTokens: maxCaptionTokens, settings });
  }

  /** @param among the ways that will be asked for */
  static async prepare(inputs: EfficiencyInputs, among: readonly Way[]): Promise<SyntheticTraining> {
    const { pipeline, seed, steps, images, generator, captions, cached } = inputs;
    const live = await OnTheFlyDataset.open({ captions, generator, images, sampling: pipeline.sampling, seed });
    const needsPixels = among.some(({ generation, path }) => generation === "cached" && path === "pixels");
    const count = Math.min(cached.length, (steps + 1) * pipeline.vlm.train.batch);
    const pixels = needsPixels ? await PixelCache.of(cached, images, count) : undefined;
    return new SyntheticTraining(inputs, live, pixels);
  }

  async step({ generation, path }: Way, index: number, clock: Clock): Promise<void> {
    const { pipeline, images, cached } = this.inputs;
    const { batch } = pipeline.vlm.train;
    const indices = Array.from({ length: batch }, (_, i) => (index * batch + i) % cached.length);
    let samples: EmbeddedSample[];
    if (generation === "on the fly") samples = await clock.time("generate", () => this.live.getMany(indices));
    else samples = await Promise.all(indices.map((row) => cached.get(row)));
    if (path === "pixels") {
      const pictures =
        generation === "cached"
          ? this.pixels!.get(indices)
          : await clock.time("decode", () => decoded(samples, images));
      samples = await clock.time("encode", () => encoded(pictures, samples, images));
    }
    const data = { real: asBatch(samples, cached), syntheticShare: 0 };
    await clock.time("train", () => this.#trainer.step(data, index));
  }

  [Symbol.dispose](): void {
    this.#trainer.dispose();
  }
}

/**
 * The same updates on the same synthetic pictures, four ways, in turns. Embeddings go from the generator, or from the cache, to the
 * model. Pixels are decoded and encoded again on the way; a cache of pixels holds them decoded. @param peakOf see `measurePeak`
 */
export async function measureEfficiency(
  inputs: EfficiencyInputs,
  peakOf: (way: Way) => Promise<number>,
): Promise<EfficiencyCell[]> {
  const { steps, images } = inputs;
  using training = await SyntheticTraining.prepare(inputs, ways);
  const clocks = ways.map(() => new Clock());
  // The first round compiles and is not counted.
  for (const way of ways) await training.step(way, 0, new Clock());
  for (let step = 1; step <= steps; step++) {
    for (let turn = 0; turn < ways.length; turn++) {
      const at = (turn + step) % ways.length;
      await training.step(ways[at]!, step, clocks[at]!);
    }
  }
  const bytes = { embeddings: 4 * images.positions * images.dimension, pixels: 3 * images.imageSize ** 2 };
  const measured: EfficiencyCell[] = [];
  for (const [i, way] of ways.entries()) {
    const cachedBytes = way.generation === "cached" ? bytes[way.path] : 0;
    measured.push({ ...way, seconds: clocks[i]!.perStep(steps), peakBytes: await peakOf(way), cachedBytes });
  }
  return measured;
}

/** CPU time of this process by stage: what runs beside it on the machine does not count. */
export class Clock {
  readonly #seconds: Record<StageName, number> = { generate: 0, decode: 0, encode: 0, train: 0 };

  async time<R>(stage: StageName, work: () => Promise<R>): Promise<R> {
    const before = process.cpuUsage();
    const result = await work();
    const { user, system } = process.cpuUsage(before);
    this.#seconds[stage] += (user + system) / 1e6;
    return result;
  }

  perStep(steps: number): Record<StageName, number> {
    const { generate, decode, encode, train } = this.#seconds;
    return { generate: generate / steps, decode: decode / steps, encode: encode / steps, train: train / steps };
  }
}

/** 8-bit pictures [N, S, S, 3] of embeddings. */
async function decoded(samples: readonly EmbeddedSample[], images: VqImageTokenizer): Promise<Uint8Array> {
  const each = images.positions * images.dimension;
  const embeddings = new Float32Array(samples.length * each);
  for (const [i, { embedding }] of samples.entries()) embeddings.set(embedding, i * each);
  return toBytes(await images.decodeEmbeddings(embeddings, samples.length));
}

/** The samples with the embeddings of these pictures. */
async function encoded(
  pictures: Uint8Array,
  samples: readonly EmbeddedSample[],
  images: VqImageTokenizer,
): Promise<EmbeddedSample[]> {
  const unit = new Float32Array(pictures.length);
  toUnit(pictures, unit, 0);
  const codes = await images.encode(unit, samples.length);
  const { positions } = images;
  return samples.map((sample, i) => ({
    ...sample,
    embedding: images.embed(codes.subarray(i * positions, (i + 1) * positions)),
  }));
}

/** Decoded pictures, 8 bits. */
class PixelCache {
  private constructor(
    readonly pixels: Uint8Array,
    readonly each: number,
  ) {}

  static async of(data: EmbeddedDataset, images: VqImageTokenizer, count: number): Promise<PixelCache> {
    const samples: EmbeddedSample[] = [];
    for (let i = 0; i < count; i++) samples.push(await data.get(i));
    return new PixelCache(await decoded(samples, images), 3 * images.imageSize ** 2);
  }

  get(indices: readonly number[]): Uint8Array {
    const pictures = new Uint8Array(indices.length * this.each);
    for (const [i, index] of indices.entries()) {
      pictures.set(this.pixels.subarray(index * this.each, (index + 1) * this.each), i * this.each);
    }
    return pictures;
  }
}

/** These samples as all there is to train on. */
function asBatch(samples: readonly EmbeddedSample[], { positions, dimension, tokenizerHash }: EmbeddedDataset) {
  const get = (index: number) => samples[index]!;
  return { length: samples.length, positions, dimension, tokenizerHash, get };
}
