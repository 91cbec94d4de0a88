import {
  type AdamW,
  compile,
  gradients,
  namedState,
  RandomGenerator,
  requireFreeOutput,
  rowsOfStep,
  runSteps,
  type StageContext,
  type StageOutput,
  scalarsOf,
  type Tensor,
  type Tokenizer,
  tensor,
  zeros,
} from "@trefoil/core";
import { keptConditions } from "../generator/masking.js";
import { type CaptionTokens, emptyTextBatch, textBatch } from "../generator/text.js";
import type { TextBatch } from "../generator/text-encoder.js";
import { type CodedPairs, checkPairs, hashPairs, pairRows } from "../generator/train.js";
import type { VqImageTokenizer } from "../tokenizer/index.js";
import { evaluationRows, makeOptimizer, type TrainingSettings } from "../training/index.js";
import { Choices } from "../world/random.js";
import type { DenoiserArchitecture } from "./architecture.js";
import { EmbeddingDenoiser, type NoiseLevels } from "./denoiser.js";
import { saveDenoiser } from "./folder.js";

type Images = Pick<VqImageTokenizer, "embed" | "hash">;
type TensorFields<T> = Record<keyof T, Tensor>;

export interface TrainDenoiserOptions extends StageContext, StageOutput {
  pairs: CodedPairs;
  /** Measured during training; none by default. */
  evaluation?: { pairs: CodedPairs; every: number };
  architecture: DenoiserArchitecture;
  /** Share of captions that are dropped, so that guidance has an unconditional model. */
  dropCondition: number;
  settings: TrainingSettings;
  /** Of the captions. */
  text: Tokenizer;
  /** The image tokenizer that the codes come from. */
  images: Images;
}

export interface TrainDenoiserResult {
  completed: boolean;
  hash?: string;
  evaluation?: Readonly<Record<string, number>>;
}

/** Everything a training step of the continuous generator moves, and the step itself. */
export class DenoiserTrainer {
  readonly model: EmbeddingDenoiser;
  readonly #optimizer: AdamW;
  readonly #random: RandomGenerator;
  readonly #step;

  constructor(
    architecture: DenoiserArchitecture,
    readonly options: Pick<TrainDenoiserOptions, "pairs" | "images" | "dropCondition" | "settings">,
  ) {
    const { pairs, images, settings } = options;
    this.model = new EmbeddingDenoiser(architecture, settings.seed);
    this.model.fit(embeddingsOf(pairs, images, architecture));
    this.#random = new RandomGenerator(settings.seed);
    const parameters = this.model.parameters();
    this.#optimizer = makeOptimizer(parameters, settings);
    this.#step = compile((text: TensorFields<TextBatch>, embeddings: Tensor, levels: TensorFields<NoiseLevels>) => {
      const loss = this.model.loss(text, embeddings, this.#random.normal(embeddings.shape), levels);
      const { gradientNorm: gradNorm, learningRate } = this.#optimizer.apply(gradients(loss, parameters));
      return { loss, gradNorm, learningRate };
    });
  }

  state() {
    const { state } = this.#random;
    return new Map([...namedState({ model: this.model, optimizer: this.#optimizer }), ["random", state] as const]);
  }

  /** @throws OutOfMemoryError when an update takes more memory than there is */
  requireMemory(): void {
    const { gridSize, codeWidth, maxTextTokens } = this.model.architecture;
    const { batch } = this.options.settings;
    const levels = this.model.levels(Array<number>(batch).fill(1));
    this.#step.memory(emptyTextBatch(batch, maxTextTokens), zeros([batch, gridSize ** 2, codeWidth]), levels);
  }

  /** Update `index` (from 0): rows, captions, dropped conditions and timesteps follow from the seed and the index. */
  async step(index: number) {
    const { pairs, images, dropCondition, settings } = this.options;
    const { maxTextTokens, timesteps } = this.model.architecture;
    const { batch, seed } = settings;
    const choices = new Choices(seed, index, 0x64696666);
    const rows = rowsOfStep(pairs.captions.length, batch, index, seed);
    const { captions, embeddings } = embeddedRows(pairs, images, this.model.architecture, rows, choices);
    const text = textBatch(captions, maxTextTokens, keptConditions(batch, dropCondition, choices));
    // One timestep from each of as many equal ranges as there are pictures: uniform, with less chance in the batch's mean.
    const times = rows.map((_, row) => 1 + Math.floor((timesteps * (row + choices.next())) / batch));
    return await scalarsOf(await this.#step(text, embeddings, this.model.levels(times)));
  }

  dispose(): void {
    for (const parameter of this.state().values()) parameter.dispose();
  }
}

function* embeddingsOf({ codes }: CodedPairs, images: Images, { gridSize }: DenoiserArchitecture) {
  const positions = gridSize ** 2;
  for (let at = 0; at < codes.length; at += positions) yield images.embed(codes.subarray(at, at + positions));
}

function embeddedRows(
  pairs: CodedPairs,
  images: Images,
  { gridSize, codeWidth }: DenoiserArchitecture,
  rows: readonly number[],
  choices: Choices,
): { captions: CaptionTokens[]; embeddings: Tensor } {
  const { codes, captions } = pairRows(pairs, gridSize ** 2, rows, choices);
  return { captions, embeddings: tensor(images.embed(codes), { shape: [rows.length, gridSize ** 2, codeWidth] }) };
}

/** Trains a continuous generator on embeddings and captions, and saves its folder. */
export async function trainDenoiser(options: TrainDenoiserOptions): Promise<TrainDenoiserResult> {
  const { pairs, evaluation, architecture, dropCondition, settings, text, images, output, overwrite } = options;
  requireFreeOutput(options);
  checkPairs(pairs, architecture);
  const trainer = new DenoiserTrainer(architecture, options);
  const origin = { text, tokenizerHash: images.hash, ...(overwrite && { overwrite }) };
  try {
    trainer.requireMemory();
    const measure = denoisingEvaluation(trainer.model, images);
    const completed = await runSteps(options, {
      title: "generator",
      config: {
        pairs: hashPairs(pairs),
        tokenizerHash: images.hash,
        text: text.hash,
        architecture,
        dropCondition,
        settings,
      },
      settings,
      parameters: trainer.state(),
      step: (index) => trainer.step(index),
      ...(evaluation && { evaluateEvery: evaluation.every, evaluate: () => measure(evaluation.pairs) }),
    });
    if (!completed) return { completed };
    const hash = await saveDenoiser(trainer.model, output, origin);
    return { completed, hash, ...(evaluation && { evaluation: await measure(evaluation.pairs) }) };
  } finally {
    trainer.dispose();
  }
}

/** The loss at fixed shares of the timesteps (`error25` … `error95`) and over all (`loss`), always with the same noise. */
function denoisingEvaluation(
  model: EmbeddingDenoiser,
  images: Images,
): (pairs: CodedPairs) => Promise<Record<string, number>> {
  const { maxTextTokens, timesteps } = model.architecture;
  const random = new RandomGenerator(0);
  const measure = compile((text: TensorFields<TextBatch>, embeddings: Tensor, levels: TensorFields<NoiseLevels>) =>
    model.loss(text, embeddings, random.normal(embeddings.shape), levels),
  );
  return async (pairs) => {
    random.seed(0);
    const choices = new Choices(0, 0x6576616c);
    const count = pairs.captions.length;
    const totals: Record<string, number> = {};
    for (const rows of evaluationRows(count)) {
      const { captions, embeddings } = embeddedRows(pairs, images, model.architecture, rows, choices);
      const text = textBatch(captions, maxTextTokens);
      const add = async (name: string, levels: readonly number[]) => {
        const mean = await (await measure(text, embeddings, model.levels(levels))).item();
        totals[name] = (totals[name] ?? 0) + (mean * rows.length) / count;
      };
      const shares = { error25: 0.25, error50: 0.5, error75: 0.75, error95: 0.95 };
      for (const [name, share] of Object.entries(shares)) {
        const t = Math.max(1, Math.round(share * timesteps));
        await add(
          name,
          rows.map(() => t),
        );
      }
      await add(
        "loss",
        rows.map((_, i) => 1 + Math.floor((timesteps * (i + 0.5)) / rows.length)),
      );
    }
    return totals;
  };
}
