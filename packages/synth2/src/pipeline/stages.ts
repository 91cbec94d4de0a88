import { existsSync } from "node:fs";
import { join } from "node:path";
import { Permutation, type StageContext, trainBpe } from "@trefoil/core";
import { classedCaptions, LanguageModel, ModelSource, trainLanguageModel, writeCaptions } from "../captions/index.js";
import {
  captionsOf,
  encodePairs,
  generatorFor,
  type OpenMaskedGenerator,
  openGenerator,
  trainGenerator,
} from "../generator/index.js";
import { type CaptionRow, readCaptionRows, synthesize } from "../synthesize/index.js";
import { trainTokenizer, VqImageTokenizer } from "../tokenizer/index.js";
import type { TrainingSettings } from "../training/index.js";
import type { EmbeddedDataset } from "../types.js";
import { CodedDataset, type OpenVlm, openVlm, SyntheticDataset, trainVlm } from "../vlm/index.js";
import { classesOfWorld, type Split, WorldDataset } from "../world/index.js";
import type { PipelineSettings } from "./settings.js";

/** Tokens of a caption at most, end of text included. */
export const maxCaptionTokens = 40;

/** Where synthetic pairs have their captions from. */
export type CaptionOrigin = "human" | "balanced" | "skewed";

/** Seed of a run's scenes; `series` tells apart those of one split. */
export const sceneSeed = (seed: number, series = 0): number => seed + series * 0x10000;

/**
 * The stages on the built-in world in one folder, for one seed. Each is trained when it is first asked for and opened from then on;
 * stopped or killed, it goes on where it was. Tokenizer, generator, language model and vision-language models see the same pairs only.
 * Methods throw the signal's reason when stopped.
 */
export class Stages {
  constructor(
    readonly folder: string,
    readonly seed: number,
    readonly settings: PipelineSettings,
    readonly context: StageContext = {},
  ) {}

  at(...names: string[]): string {
    return join(this.folder, ...names);
  }

  /** Scenes of a split; each seed has its own. @param series another one has other scenes */
  data(split: Split, length: number, series = 0): WorldDataset {
    const { world, tokenizer } = this.settings;
    return new WorldDataset({
      world,
      split,
      length,
      size: tokenizer.model.imageSize,
      seed: sceneSeed(this.seed, series),
    });
  }

  get pairs(): WorldDataset {
    return this.data("paired", this.settings.pairs);
  }

  async tokenizer(): Promise<VqImageTokenizer> {
    const { model: architecture, loss, train } = this.settings.tokenizer;
    await this.#once("tokenizer", (paths) =>
      trainTokenizer({ ...paths, data: this.pairs, architecture, loss, settings: this.#seeded(train) }),
    );
    return await VqImageTokenizer.open(this.at("tokenizer"));
  }

  async generator(images: VqImageTokenizer): Promise<OpenMaskedGenerator> {
    const { model, loss, train } = this.settings.generator;
    await this.#once("generator", async (paths) => {
      const text = await trainBpe(await captionsOf(this.pairs), { vocabSize: this.settings.vocabulary });
      const pairs = await encodePairs(this.pairs, images, text, model.maxTextTokens, this.context);
      const architecture = generatorFor(model, images, text.vocabSize);
      const settings = this.#seeded(train);
      return await trainGenerator({ ...paths, architecture, loss, pairs, text, settings, tokenizerHash: images.hash });
    });
    return await openGenerator(this.at("generator"));
  }

  /** Its vocabulary is the generator's. */
  async language({ text: tokenizer }: OpenMaskedGenerator): Promise<LanguageModel> {
    const { model: sizes, train } = this.settings.language;
    await this.#once("language", async (paths) => {
      const captions = await classedCaptions(this.pairs);
      return await trainLanguageModel({ ...paths, captions, tokenizer, sizes, settings: this.#seeded(train) });
    });
    return await LanguageModel.open(this.at("language"));
  }

  /** Captions for synthetic pairs: human ones (GenImage), or written ones of classes drawn alike or as often as people named them. */
  async captions(origin: CaptionOrigin, language: LanguageModel): Promise<CaptionRow[]> {
    const { synthetic: count } = this.settings;
    if (origin === "human") {
      const human = await captionsOf(this.pairs);
      const order = new Permutation(human.length, this.seed, 0);
      return Array.from({ length: count }, (_, i) => ({ id: String(i), caption: human[order.at(i % human.length)]! }));
    }
    const output = this.at(`captions-${origin}`);
    const all = classesOfWorld(this.settings.world);
    const classes = origin === "balanced" ? all : await this.#namedClasses();
    const sampling = { temperature: 1, topK: 0, topP: 0.95 };
    const source = new ModelSource(language, all, { batch: 32, maxTokens: maxCaptionTokens, ...sampling });
    await using _ = source;
    const filter = { minWords: 2, maxWords: 25, grammar: "world", duplicates: true } as const;
    const written = { source, classes, count, output, filter, seed: this.seed, attempts: 20 };
    const { completed } = await writeCaptions({ ...written, ...this.context });
    if (!completed) this.context.signal?.throwIfAborted();
    const rows: CaptionRow[] = [];
    for await (const row of readCaptionRows(join(output, "captions.jsonl"))) rows.push(row);
    return rows;
  }

  /** Embeddings drawn for captions, in shards. */
  async synthetic(
    name: string,
    captions: readonly CaptionRow[],
    models: { generator: OpenMaskedGenerator; images: VqImageTokenizer },
  ): Promise<SyntheticDataset> {
    const output = this.at(`synthetic-${name}`);
    const { completed } = await synthesize({
      ...{ generator: models.generator, tokenizer: models.images, captions, output },
      ...{ sampling: this.settings.sampling, seed: this.seed, shardSize: 256, ...this.context },
    });
    if (!completed) this.context.signal?.throwIfAborted();
    return await SyntheticDataset.open(output);
  }

  /** Real pairs as the image tokenizer sees them. */
  async coded(data: WorldDataset, images: VqImageTokenizer): Promise<CodedDataset> {
    return await CodedDataset.encode(data, images, this.context);
  }

  async vlm(
    name: string,
    language: LanguageModel,
    data: { real: EmbeddedDataset; synthetic?: EmbeddedDataset; syntheticShare: number },
  ): Promise<OpenVlm> {
    const { model: sizes, train } = this.settings.vlm;
    await this.#once(`vlm-${name}`, (paths) =>
      trainVlm({
        ...{ ...paths, data, language, sizes, maxTextTokens: maxCaptionTokens, settings: this.#seeded(train) },
      }),
    );
    return await openVlm(this.at(`vlm-${name}`), language);
  }

  #seeded(train: TrainingSettings): TrainingSettings {
    return { ...train, seed: this.seed };
  }

  /** Trains what is not there, from its newest checkpoint. */
  async #once(
    name: string,
    train: (
      paths: StageContext & { output: string; run: string; resume: true; dataName: string },
    ) => Promise<{ completed: boolean }>,
  ): Promise<void> {
    if (existsSync(this.at(name))) return;
    const paths = { output: this.at(name), run: this.at(`${name}-run`), resume: true } as const;
    const { completed } = await train({ ...paths, ...this.context, dataName: `pairs of seed ${this.seed}` });
    if (!completed) this.context.signal?.throwIfAborted();
  }

  /** As often as people named them. */
  async #namedClasses(): Promise<string[]> {
    const captions = await classedCaptions(this.pairs);
    return captions.flatMap(({ classes }) => classes);
  }
}
