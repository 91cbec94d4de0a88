import { compile, Generator, Parameter, type StageContext, type Tensor, tensor } from "@trefoil/core";
import type { LanguageModel } from "../captions/language-model.js";
import { SynthError } from "../errors.js";
import type { EmbeddedDataset } from "../types.js";
import type { VisionLanguageModel } from "./model.js";

export interface CaptionerOptions {
  /** Tokens of a caption at most. */
  maxTokens: number;
  /** Pictures captioned at a time. */
  batch: number;
}

/** Writes captions of embeddings: greedy, with a key-value cache; the pictures are read once per batch. */
export class Captioner implements Disposable {
  readonly #memories: { keys: Parameter; values: Parameter }[];
  readonly #generator: Generator;
  readonly #look;

  /** @throws SynthError `SYNTH_OPTIONS` where captions may have more tokens than the language model reads */
  constructor(
    readonly model: VisionLanguageModel,
    readonly language: Pick<LanguageModel, "tokenizer" | "start" | "ends">,
    readonly options: CaptionerOptions,
  ) {
    const { latents, heads, textWidth } = model.architecture;
    const { maxPositions } = model.seeing([]).config;
    if (options.maxTokens >= maxPositions) {
      const message = `maxTokens is ${options.maxTokens}, but behind its beginning the language model reads ${maxPositions - 1} at most: lower it`;
      throw new SynthError("SYNTH_OPTIONS", message);
    }
    const parameter = () => new Parameter([options.batch, latents, heads, textWidth / heads], { trainable: false });
    this.#memories = model.blocks.map(() => ({ keys: parameter(), values: parameter() }));
    this.#generator = new Generator(model.seeing(this.#memories), options.batch, 1 + options.maxTokens);
    this.#look = compile((embeddings: Tensor) => {
      model.memories(embeddings).forEach(({ keys, values }, i) => {
        this.#memories[i]!.keys.assign(keys);
        this.#memories[i]!.values.assign(values);
      });
    });
  }

  /** @param embeddings `[count, L, D]` */
  async caption(embeddings: Float32Array, count: number, { signal }: StageContext = {}): Promise<string[]> {
    const { batch, maxTokens } = this.options;
    const { gridSize, codeWidth } = this.model.architecture;
    const { start, ends, tokenizer } = this.language;
    const each = gridSize ** 2 * codeWidth;
    const captions: string[] = [];
    for (let at = 0; at < count; at += batch) {
      signal?.throwIfAborted();
      const rows = new Float32Array(batch * each);
      rows.set(embeddings.subarray(at * each, Math.min(count, at + batch) * each));
      await this.#look(tensor(rows, { shape: [batch, gridSize ** 2, codeWidth] }));
      const prompts = Array.from({ length: batch }, () => Int32Array.of(start));
      const options = { maxNewTokens: maxTokens, temperature: 0, eosTokenIds: ends };
      const written = await this.#generator.generate(prompts, { ...options, ...(signal && { signal }) });
      signal?.throwIfAborted();
      for (const { tokens, finished } of written.slice(0, count - at)) {
        captions.push(tokenizer.decode(finished ? tokens.subarray(0, -1) : tokens).trim());
      }
    }
    return captions;
  }

  /** A caption of every picture of a dataset. */
  async captionAll(data: EmbeddedDataset, { progress, signal }: StageContext = {}): Promise<string[]> {
    const stage = progress?.stage("caption", { total: data.length, unit: "pictures" });
    const captions: string[] = [];
    const each = data.positions * data.dimension;
    for (let at = 0; at < data.length; at += this.options.batch) {
      const count = Math.min(this.options.batch, data.length - at);
      const embeddings = new Float32Array(count * each);
      for (let i = 0; i < count; i++) embeddings.set((await data.get(at + i)).embedding, i * each);
      captions.push(...(await this.caption(embeddings, count, { ...(signal && { signal }) })));
      stage?.update(captions.length);
    }
    stage?.succeed();
    return captions;
  }

  [Symbol.dispose](): void {
    this.#generator.dispose();
    for (const { keys, values } of this.#memories) {
      keys.dispose();
      values.dispose();
    }
  }
}
