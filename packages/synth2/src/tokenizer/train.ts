import {
  type AdamW,
  absolute,
  add,
  compile,
  divide,
  gradients,
  InitialValues,
  log,
  mean,
  multiply,
  namedState,
  RandomGenerator,
  requireFreeOutput,
  rowsOfStep,
  runSteps,
  type StageContext,
  type StageOutput,
  scalarsOf,
  square,
  subtract,
  type Tensor,
  tensor,
  zeros,
} from "@trefoil/core";
import { imageBatch } from "../images/pixels.js";
import { evaluationRows, makeOptimizer, type TrainingSettings } from "../training/index.js";
import type { PairedDataset } from "../types.js";
import { booksOf, type TokenizerArchitecture } from "./architecture.js";
import { type CodebookUpdate, CodebookUsage, usageOf } from "./codebook.js";
import { adaptiveWeight, PatchDiscriminator } from "./discriminator.js";
import { saveImageTokenizer, TokenizerModel } from "./image-tokenizer.js";

export interface AdversarialSettings {
  /** Times the adaptive weight. 0: no discriminator. */
  weight: number;
  /** Step from which the decoder sees the discriminator; the discriminator trains from half of it on. */
  startStep: number;
  /** Channels of its layers; each halves the picture. */
  channels: readonly number[];
  /** Of the R1 penalty on real images; 0: none. */
  gradientPenalty: number;
}

export interface TokenizerLossSettings {
  /** Mean absolute or mean squared error of the pixels. */
  reconstruction: "l1" | "l2";
  /**
   * Share of a pixel's weight that grows with its distance from the mean colour of its picture; 0: all pixels weigh alike. Small things
   * on a wide background would otherwise hardly count.
   */
  contrast: number;
  codebook: CodebookUpdate;
  /** β, the weight of the commitment loss. */
  commitment: number;
  /** Share of the run after which dead codes are left alone. */
  reviveUntil: number;
  adversarial: AdversarialSettings;
}

export interface TrainTokenizerOptions extends StageContext, StageOutput {
  data: PairedDataset;
  /** Tells the data apart from others when a run is resumed. */
  dataName: string;
  architecture: TokenizerArchitecture;
  loss: TokenizerLossSettings;
  settings: TrainingSettings;
  /** Pictures to measure on, and every how many steps; none by default. */
  evaluation?: { data: PairedDataset; every: number };
}

export interface TrainTokenizerResult {
  completed: boolean;
  /** Of the saved folder. */
  hash?: string;
  /** Over the evaluation pictures, at the end. */
  evaluation?: TokenizerScores;
}

export type TokenizerScores = Record<"psnr" | "l1" | "codesUsed" | "perplexity", number>;

/** Everything a training step of the tokenizer moves, and the step itself. */
export class TokenizerTrainer {
  readonly model: TokenizerModel;
  readonly #usage: CodebookUsage[];
  readonly #discriminator: PatchDiscriminator | null;
  readonly #optimizer: AdamW;
  readonly #discriminatorOptimizer: AdamW | null;
  readonly #random: RandomGenerator;
  readonly #loss: TokenizerLossSettings;
  readonly #settings: TrainingSettings;
  readonly #step;

  constructor(architecture: TokenizerArchitecture, loss: TokenizerLossSettings, settings: TrainingSettings) {
    this.#loss = loss;
    this.#settings = settings;
    this.model = new TokenizerModel(architecture, settings.seed);
    for (const { weight } of this.model.codebooks) weight.trainable = loss.codebook.learning === "gradient";
    this.#usage = booksOf(architecture).map((codes) => new CodebookUsage(codes, architecture.codeWidth));
    this.#random = new RandomGenerator(settings.seed);
    this.#optimizer = makeOptimizer(this.model.parameters(), settings);
    const adversarial = loss.adversarial.weight > 0;
    this.#discriminator = adversarial
      ? new PatchDiscriminator(loss.adversarial.channels, new InitialValues(settings.seed + 1))
      : null;
    this.#discriminatorOptimizer = this.#discriminator && makeOptimizer(this.#discriminator.parameters(), settings);
    this.#step = compile((images: Tensor, reviving: Tensor, phase: Phase) => this.#record(images, reviving, phase));
  }

  /** Weights, moments, counts and random state, by name. */
  state() {
    const parts = { model: this.model, optimizer: this.#optimizer, ...keyed("usage", this.#usage) };
    const more = this.#discriminator && { discriminator: this.#discriminator, judge: this.#discriminatorOptimizer! };
    return new Map([...namedState({ ...parts, ...more }), ["random", this.#random.state] as const]);
  }

  /** @throws OutOfMemoryError when an update takes more memory than there is, in the phase that takes most */
  requireMemory(): void {
    const { imageSize } = this.model.architecture;
    const phase: Phase = this.#discriminator ? "adversarial" : "alone";
    this.#step.memory(zeros([this.#settings.batch, imageSize, imageSize, 3]), zeros([]), phase);
  }

  /** One update. images [N, S, S, 3] in [-1, 1]; `index` from 0. */
  async step(images: Tensor, index: number) {
    const { reviveUntil, adversarial } = this.#loss;
    const reviving = index < reviveUntil * this.#settings.steps ? 1 : 0;
    const phase: Phase =
      !this.#discriminator || index < adversarial.startStep / 2
        ? "alone"
        : index < adversarial.startStep
          ? "judge"
          : "adversarial";
    return await scalarsOf(await this.#step(images, tensor(reviving), phase));
  }

  dispose(): void {
    for (const parameter of this.state().values()) parameter.dispose();
  }

  #record(images: Tensor, reviving: Tensor, phase: Phase): Record<string, Tensor> {
    const { model } = this;
    const { reconstruction: kind, contrast, codebook, commitment: beta, adversarial } = this.#loss;
    const found = model.quantise(images);
    const commitment = sumOf(found.parts.map((part) => part.commitment));
    const made = model.images(found.quantised);
    const difference = subtract(images, made);
    const [absolutes, squares] = [absolute(difference), square(difference)];
    const [l1, l2] = [mean(absolutes), mean(squares)];
    const errors = kind === "l1" ? absolutes : squares;
    const plain = kind === "l1" ? l1 : l2;
    const reconstruction = contrast > 0 ? mean(multiply(errors, contrastWeights(images, contrast))) : plain;
    let loss = add(reconstruction, multiply(commitment, beta));
    if (codebook.learning === "gradient") {
      loss = add(loss, sumOf(found.parts.map((part) => part.codebookLoss)));
    }
    const judge = phase === "alone" ? null : this.#discriminator;
    const scalars: Record<string, Tensor> = {};
    if (judge && phase === "adversarial") {
      const raised = judge.generatorLoss(made);
      const weight = multiply(
        adaptiveWeight(reconstruction, raised, model.autoencoder.decoder.output.weight),
        adversarial.weight,
      );
      loss = add(loss, multiply(raised, weight));
      Object.assign(scalars, { adversarialLoss: raised, adversarialWeight: weight });
    }
    // All gradients before the first update: they are of one state of the weights.
    const grads = gradients(loss, this.#optimizer.parameters);
    if (judge) {
      const verdict = judge.loss(images, made);
      const penalty = adversarial.gradientPenalty > 0 ? judge.gradientPenalty(images) : null;
      const total = penalty ? add(verdict.loss, multiply(penalty, adversarial.gradientPenalty / 2)) : verdict.loss;
      this.#discriminatorOptimizer!.apply(gradients(total, this.#discriminatorOptimizer!.parameters));
      const { realScore, fakeScore } = verdict;
      Object.assign(scalars, { discriminatorLoss: verdict.loss, realScore, fakeScore });
    }
    const { gradientNorm, learningRate } = this.#optimizer.apply(grads);
    const revived = sumOf(
      found.parts.map(
        (part, i) => this.#usage[i]!.update(model.codebooks[i]!, part, codebook, this.#random, reviving).revived,
      ),
    );
    const usage = usageOf(found.index, codesOf(model.architecture));
    return {
      loss,
      l1,
      psnr: psnrOf(l2),
      commitment,
      ...scalars,
      ...usage,
      revived,
      gradNorm: gradientNorm,
      learningRate,
    };
  }
}

const sumOf = (values: readonly Tensor[]): Tensor => values.reduce((a, b) => add(a, b));
const keyed = <T>(name: string, values: readonly T[]): Record<string, T> =>
  Object.fromEntries(values.map((value, i) => [`${name}${i}`, value]));
const codesOf = (architecture: TokenizerArchitecture): number => booksOf(architecture).reduce((a, b) => a * b);

type Phase = "alone" | "judge" | "adversarial";

/** Weights [N, S, S, 1] with mean 1 in each picture: 1 - contrast, and the rest by the distance from its mean colour. */
function contrastWeights(images: Tensor, contrast: number): Tensor {
  const offset = absolute(subtract(images, mean(images, { axes: [1, 2], keepDims: true })));
  const distance = mean(offset, { axes: 3, keepDims: true });
  const share = divide(distance, add(mean(distance, { axes: [1, 2], keepDims: true }), 1e-6));
  return add(multiply(share, contrast), 1 - contrast);
}

/** Peak signal-to-noise ratio in dB of values in [-1, 1], from their mean squared error. */
const psnrOf = (l2: Tensor): Tensor => multiply(log(multiply(l2, 1 / 4)), -10 / Math.LN10);

/** Trains a tokenizer on the pictures of a dataset and saves its folder. */
export async function trainTokenizer(options: TrainTokenizerOptions): Promise<TrainTokenizerResult> {
  const { data, dataName, architecture, loss, settings, output, overwrite, evaluation } = options;
  requireFreeOutput(options);
  const trainer = new TokenizerTrainer(architecture, loss, settings);
  try {
    trainer.requireMemory();
    const measure = evaluator(trainer.model);
    const completed = await runSteps(options, {
      title: "tokenizer",
      config: { data: dataName, images: data.length, architecture, loss, settings },
      settings,
      parameters: trainer.state(),
      step: async (index) => {
        const images = await imageBatch(data, rowsOfStep(data.length, settings.batch, index, settings.seed));
        const scalars = await trainer.step(imagesTensor(images, architecture.imageSize), index);
        return scalars as typeof scalars & { loss: number };
      },
      ...(evaluation && { evaluateEvery: evaluation.every, evaluate: () => measure(evaluation.data) }),
    });
    if (!completed) return { completed };
    const hash = await saveImageTokenizer(trainer.model, output, overwrite);
    return { completed, hash, ...(evaluation && { evaluation: await measure(evaluation.data) }) };
  } finally {
    trainer.dispose();
  }
}

/** Images as a tensor, [N, S, S, 3]. */
export const imagesTensor = (images: Float32Array, size: number): Tensor =>
  tensor(images, { shape: [images.length / (size * size * 3), size, size, 3] });

/** Measures reconstruction and codebook over a whole dataset. */
function evaluator(model: TokenizerModel): (data: PairedDataset) => Promise<TokenizerScores> {
  const { imageSize } = model.architecture;
  const codes = codesOf(model.architecture);
  const reconstruct = compile((images: Tensor) => {
    const { index, quantised } = model.quantise(images);
    const difference = subtract(images, model.images(quantised));
    return { index, l1: mean(absolute(difference)), l2: mean(square(difference)) };
  });
  return async (data) => {
    const counts = new Float64Array(codes);
    let [l1, l2] = [0, 0];
    for (const rows of evaluationRows(data.length)) {
      const result = await reconstruct(imagesTensor(await imageBatch(data, rows), imageSize));
      for (const code of await result.index.data()) counts[code]!++;
      l1 += ((await result.l1.item()) * rows.length) / data.length;
      l2 += ((await result.l2.item()) * rows.length) / data.length;
    }
    const total = counts.reduce((a, b) => a + b, 0);
    const entropy = counts.reduce((sum, n) => (n > 0 ? sum - (n / total) * Math.log(n / total) : sum), 0);
    return {
      psnr: -10 * Math.log10(l2 / 4),
      l1,
      codesUsed: counts.filter((n) => n > 0).length,
      perplexity: Math.exp(entropy),
    };
  };
}
