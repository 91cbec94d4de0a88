import { createHash } from "node:crypto";
import {
  type AdamW,
  compile,
  type Dtype,
  gradients,
  namedState,
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
import { SynthError } from "../errors.js";
import { evaluationRows, makeOptimizer, type TrainingSettings } from "../training/index.js";
import { Choices } from "../world/random.js";
import type { GeneratorArchitecture } from "./architecture.js";
import { saveGenerator } from "./folder.js";
import { MaskedGenerator } from "./masked-model.js";
import { hideCodes, keptConditions, type MaskingOptions } from "./masking.js";
import { splitCodes } from "./slots.js";
import { type CaptionTokens, emptyTextBatch, textBatch } from "./text.js";
import type { TextBatch } from "./text-encoder.js";

/** Pictures as codes, with their captions: what generators learn from. */
export interface CodedPairs {
  /** `[pictures, L]` */
  codes: Int32Array;
  /** Of each picture: one or more captions. */
  captions: readonly (readonly CaptionTokens[])[];
}

export interface GeneratorLossSettings extends Omit<MaskingOptions, "maskToken"> {
  /** Share of captions that are dropped, so that guidance has an unconditional model. */
  dropCondition: number;
  /** ε of the label smoothing. */
  labelSmoothing: number;
}

export interface TrainGeneratorOptions extends StageContext, StageOutput {
  pairs: CodedPairs;
  /** Measured during training; none by default. */
  evaluation?: { pairs: CodedPairs; every: number };
  architecture: GeneratorArchitecture;
  loss: GeneratorLossSettings;
  settings: TrainingSettings;
  /** Of the captions. */
  text: Tokenizer;
  /** Of the image tokenizer that the codes come from. */
  tokenizerHash: string;
}

export interface TrainGeneratorResult {
  completed: boolean;
  hash?: string;
  evaluation?: Readonly<Record<string, number>>;
}

/** @throws SynthError `SYNTH_DATA` */
export function checkPairs(
  { codes, captions }: CodedPairs,
  { gridSize }: Pick<GeneratorArchitecture, "gridSize">,
): void {
  if (captions.length === 0) throw new SynthError("SYNTH_DATA", "there are no pairs to train on");
  if (codes.length !== captions.length * gridSize ** 2) {
    throw new SynthError(
      "SYNTH_DATA",
      `${codes.length} codes are not ${captions.length} pictures of ${gridSize} × ${gridSize}: were they made by another tokenizer?`,
    );
  }
}

/** SHA-256 of codes and captions: a run is resumed on the same pairs only. */
export function hashPairs({ codes, captions }: CodedPairs): string {
  const hash = createHash("sha256").update(new Uint8Array(codes.buffer, codes.byteOffset, codes.byteLength));
  for (const each of captions) hash.update(JSON.stringify(each.map((caption) => [...caption])));
  return hash.digest("hex");
}

/** The codes and one caption each of some pictures. */
export function pairRows(
  { codes, captions }: CodedPairs,
  positions: number,
  rows: readonly number[],
  choices: Choices,
): { codes: Int32Array; captions: CaptionTokens[] } {
  const some = new Int32Array(rows.length * positions);
  const chosen = rows.map((row, i) => {
    some.set(codes.subarray(row * positions, (row + 1) * positions), i * positions);
    return choices.pick(captions[row]!);
  });
  return { codes: some, captions: chosen };
}

/** Everything a training step of the generator moves, and the step itself. */
export class GeneratorTrainer {
  readonly model: MaskedGenerator;
  readonly #optimizer: AdamW;
  readonly #loss: GeneratorLossSettings;
  readonly #settings: TrainingSettings;
  readonly #step;

  constructor(architecture: GeneratorArchitecture, loss: GeneratorLossSettings, settings: TrainingSettings) {
    this.#loss = loss;
    this.#settings = settings;
    this.model = new MaskedGenerator(architecture, settings.seed);
    const parameters = this.model.parameters();
    this.#optimizer = makeOptimizer(parameters, settings, { beta2: 0.96 });
    this.#step = compile((text: TensorFields<TextBatch>, tokens: Tensor, targets: Tensor, weights: Tensor) => {
      const result = this.model.loss(text, { tokens, targets, weights }, loss.labelSmoothing);
      const { gradientNorm: gradNorm, learningRate } = this.#optimizer.apply(gradients(result.loss, parameters));
      return { ...result, gradNorm, learningRate };
    });
  }

  state() {
    return namedState({ model: this.model, optimizer: this.#optimizer });
  }

  /** @throws OutOfMemoryError when an update takes more memory than there is */
  requireMemory(): void {
    const { gridSize, maxTextTokens } = this.model.architecture;
    const { batch } = this.#settings;
    const codes = (dtype: Dtype) => zeros([batch, gridSize ** 2 * this.model.slots.books.length], dtype);
    this.#step.memory(emptyTextBatch(batch, maxTextTokens), codes("i32"), codes("i32"), codes("f32"));
  }

  /** Update `index` (from 0) on these pairs: rows, captions, dropped conditions and masks follow from the seed and the index. */
  async step(pairs: CodedPairs, index: number) {
    const { gridSize, maxTextTokens } = this.model.architecture;
    const { slots } = this.model;
    const { batch, seed } = this.#settings;
    const choices = new Choices(seed, index, 0x6d61736b);
    const positions = gridSize ** 2;
    const rows = rowsOfStep(pairs.captions.length, batch, index, seed);
    const { codes, captions } = pairRows(pairs, positions, rows, choices);
    const kept = keptConditions(batch, this.#loss.dropCondition, choices);
    const width = positions * slots.books.length;
    const options = { ...this.#loss, maskToken: this.model.maskToken };
    const masked = hideCodes(splitCodes(codes, slots), width, choices, options);
    const shape = [batch, width];
    const fields = Object.values(masked).map((data) => tensor(data, { shape })) as [Tensor, Tensor, Tensor];
    return await scalarsOf(await this.#step(textBatch(captions, maxTextTokens, kept), ...fields));
  }

  dispose(): void {
    for (const parameter of this.state().values()) parameter.dispose();
  }
}

type TensorFields<T> = Record<keyof T, Tensor>;

/** Trains a masked generator on codes and captions, and saves its folder. */
export async function trainGenerator(options: TrainGeneratorOptions): Promise<TrainGeneratorResult> {
  const { pairs, evaluation, architecture, loss, settings, text, tokenizerHash, output, overwrite } = options;
  requireFreeOutput(options);
  checkPairs(pairs, architecture);
  const trainer = new GeneratorTrainer(architecture, loss, settings);
  try {
    trainer.requireMemory();
    const measure = maskedEvaluation(trainer.model);
    const completed = await runSteps(options, {
      title: "generator",
      config: { pairs: hashPairs(pairs), tokenizerHash, text: text.hash, architecture, loss, settings },
      settings,
      parameters: trainer.state(),
      step: (index) => trainer.step(pairs, index),
      ...(evaluation && { evaluateEvery: evaluation.every, evaluate: () => measure(evaluation.pairs) }),
    });
    if (!completed) return { completed };
    const hash = await saveGenerator(trainer.model, output, { text, tokenizerHash, ...(overwrite && { overwrite }) });
    return { completed, hash, ...(evaluation && { evaluation: await measure(evaluation.pairs) }) };
  } finally {
    trainer.dispose();
  }
}

const shares = [0.25, 0.5, 0.75, 1] as const;

/**
 * Nats per hidden code at fixed shares of hidden codes (`nllHidden25` … `nllHidden100`), the accuracy at half of them, and
 * `bitsPerCode`: the mean per entry of a codebook over shares uniform on (0, 1], which bounds the likelihood of a picture's codes (absorbing diffusion).
 */
export function maskedEvaluation(model: MaskedGenerator): (pairs: CodedPairs) => Promise<Record<string, number>> {
  const { gridSize, maxTextTokens } = model.architecture;
  const positions = gridSize ** 2;
  const measure = compile((text: TensorFields<TextBatch>, tokens: Tensor, targets: Tensor, weights: Tensor) =>
    model.loss(text, { tokens, targets, weights }, 0),
  );
  return async (pairs) => {
    const count = pairs.captions.length;
    const choices = new Choices(0, 0x6576616c);
    const score = async (rows: readonly number[], share: (row: number) => number) => {
      const { codes, captions } = pairRows(pairs, positions, rows, choices);
      const options = { maskToken: model.maskToken, schedule: "linear", average: "picture", share } as const;
      const width = positions * model.slots.books.length;
      const masked = hideCodes(splitCodes(codes, model.slots), width, choices, options);
      const fields = Object.values(masked).map((data) => tensor(data, { shape: [rows.length, width] }));
      const result = await measure(textBatch(captions, maxTextTokens), ...(fields as [Tensor, Tensor, Tensor]));
      return await scalarsOf(result);
    };
    const totals: Record<string, number> = {};
    for (const rows of evaluationRows(count)) {
      const add = (name: string, mean: number) => {
        totals[name] = (totals[name] ?? 0) + (mean * rows.length) / count;
      };
      for (const share of shares) {
        const { likelihood, accuracy } = await score(rows, () => share);
        add(`nllHidden${100 * share}`, likelihood);
        if (share === 0.5) add("accuracyHidden50", accuracy);
      }
      // Shares spread evenly over the pictures stand for uniform ones.
      const { likelihood } = await score(rows, (row) => 1 - (((rows[row]! + 0.5) * 0.618034) % 1));
      add("bitsPerCode", likelihood / Math.LN2);
    }
    return { ...totals, loss: totals.nllHidden50! };
  };
}
