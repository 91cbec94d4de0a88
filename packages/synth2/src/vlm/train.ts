import {
  type AdamW,
  compile,
  type Dtype,
  gradients,
  namedState,
  requireFreeOutput,
  rowsFrom,
  runSteps,
  type StageContext,
  type StageOutput,
  scalarsOf,
  type Tensor,
  tensor,
  zeros,
} from "@trefoil/core";
import type { LanguageModel } from "../captions/language-model.js";
import { SynthError } from "../errors.js";
import { requireSameTokenizer } from "../generator/index.js";
import { makeOptimizer, type TrainingSettings } from "../training/index.js";
import type { EmbeddedDataset } from "../types.js";
import { Choices } from "../world/random.js";
import { type VlmArchitecture, type VlmSizes, vlmArchitectureSchema } from "./architecture.js";
import { saveVlm } from "./folder.js";
import { VisionLanguageModel } from "./model.js";
import { captionTargets } from "./targets.js";

/**
 * What a vision-language model learns from. Human captions of real pictures; with `synthetic`, also pairs whose embeddings were drawn:
 * from the human captions (GenImage) or from written ones (GenPair).
 */
export interface VlmData {
  real: EmbeddedDataset;
  synthetic?: EmbeddedDataset;
  /** Share of synthetic pairs in the batches, in [0, 1]: exact over the run, up to one pair. */
  syntheticShare: number;
}

export interface TrainVlmOptions extends StageContext, StageOutput {
  data: VlmData;
  /** Tells the data apart when a run is resumed. */
  dataName: string;
  language: LanguageModel;
  sizes: VlmSizes;
  /** Tokens of a caption that are learned, end of text included. */
  maxTextTokens: number;
  settings: TrainingSettings;
  evaluation?: { measure: (model: VisionLanguageModel) => Promise<Readonly<Record<string, number>>>; every: number };
}

export interface TrainVlmResult {
  completed: boolean;
  hash?: string;
}

/** Rows of a batch: so many of the real pairs from their `at`, then of the synthetic ones. */
export function mixOfStep(
  batch: number,
  share: number,
  step: number,
): Record<"real" | "synthetic", { at: number; count: number }> {
  const synthetic = (rows: number) => Math.floor(rows * share + 1e-9);
  const [before, after] = [step * batch, (step + 1) * batch];
  return {
    real: { at: before - synthetic(before), count: batch - synthetic(after) + synthetic(before) },
    synthetic: { at: synthetic(before), count: synthetic(after) - synthetic(before) },
  };
}

/** @throws SynthError `SYNTH_TOKENIZER_MISMATCH`, `SYNTH_OPTIONS`, `SYNTH_DATA` */
function checkData({ real, synthetic, syntheticShare }: VlmData): void {
  if (synthetic) requireSameTokenizer("the synthetic data", synthetic.tokenizerHash, real.tokenizerHash);
  if (!synthetic && syntheticShare > 0)
    throw new SynthError("SYNTH_OPTIONS", "a share of synthetic pairs needs synthetic data");
  if (syntheticShare < 0 || syntheticShare > 1) {
    throw new SynthError("SYNTH_OPTIONS", `the share of synthetic pairs is ${syntheticShare}: give one from 0 to 1`);
  }
  if (real.length === 0 || synthetic?.length === 0)
    throw new SynthError("SYNTH_DATA", "there are no pairs to train on");
}

/** @throws SynthError `SYNTH_OPTIONS` where the sizes do not fit the language model or the grid */
export function vlmArchitecture(sizes: VlmSizes, data: EmbeddedDataset, language: LanguageModel): VlmArchitecture {
  const { hiddenSize: textWidth, layers: textLayers } = language.model.config;
  const gridSize = Math.sqrt(data.positions);
  const parsed = vlmArchitectureSchema.safeParse({
    ...sizes,
    gridSize,
    codeWidth: data.dimension,
    textWidth,
    textLayers,
  });
  if (!parsed.success)
    throw new SynthError("SYNTH_OPTIONS", parsed.error.issues.map(({ message }) => message).join("; "));
  return parsed.data;
}

/** @throws SynthError `SYNTH_OPTIONS` where captions may have more tokens than the language model reads */
export function requireTextTokens({ path, model }: LanguageModel, maxTextTokens: number): void {
  const { maxPositions } = model.config;
  if (maxTextTokens <= maxPositions) return;
  const message = `maxTextTokens is ${maxTextTokens}, but the language model ${path} reads ${maxPositions} at most: lower it`;
  throw new SynthError("SYNTH_OPTIONS", message);
}

/** Everything a training step of the vision-language model moves, and the step itself. */
export class VlmTrainer {
  readonly model: VisionLanguageModel;
  readonly #optimizer: AdamW;
  readonly #options: Pick<TrainVlmOptions, "language" | "maxTextTokens" | "settings">;
  readonly #step;
  /** Captions seen whose end was cut off. */
  cut = 0;

  constructor(
    architecture: VlmArchitecture,
    options: Pick<TrainVlmOptions, "language" | "maxTextTokens" | "settings">,
  ) {
    this.#options = options;
    this.model = new VisionLanguageModel(architecture, options.language.model, options.settings.seed);
    const parameters = this.model.parameters();
    this.#optimizer = makeOptimizer(parameters, options.settings);
    this.#step = compile((embeddings: Tensor, tokens: Tensor, targets: Tensor, weights: Tensor) => {
      const loss = this.model.loss(embeddings, { tokens, targets, weights });
      const { gradientNorm: gradNorm, learningRate } = this.#optimizer.apply(gradients(loss, parameters));
      return { loss, gradNorm, learningRate };
    });
  }

  state() {
    return namedState({ model: this.model, optimizer: this.#optimizer });
  }

  /** @throws OutOfMemoryError when an update takes more memory than there is */
  requireMemory({ positions, dimension }: EmbeddedDataset): void {
    const { maxTextTokens, settings } = this.#options;
    const text = (dtype: Dtype) => zeros([settings.batch, maxTextTokens], dtype);
    this.#step.memory(zeros([settings.batch, positions, dimension]), text("i32"), text("i32"), text("f32"));
  }

  /** Update `index` (from 0): pairs and captions follow from the seed and the index. */
  async step({ real, synthetic, syntheticShare }: VlmData, index: number) {
    const { batch, seed } = this.#options.settings;
    const mix = mixOfStep(batch, syntheticShare, index);
    const pairs = [
      ...(await pairsFrom(real, mix.real, seed)),
      ...(synthetic ? await pairsFrom(synthetic, mix.synthetic, seed + 1) : []),
    ];
    const choices = new Choices(seed, index, 0x63617074);
    const captions = pairs.map(({ captions: written }) => choices.pick(written));
    const embeddings = new Float32Array(batch * real.positions * real.dimension);
    pairs.forEach(({ embedding }, row) => {
      embeddings.set(embedding, row * embedding.length);
    });
    const { tokens, targets, weights, cut } = captionTargets(captions, this.#options);
    this.cut += cut;
    const pictures = tensor(embeddings, { shape: [batch, real.positions, real.dimension] });
    return await scalarsOf(await this.#step(pictures, tokens, targets, weights));
  }

  dispose(): void {
    for (const parameter of this.state().values()) parameter.dispose();
  }
}

/** Pairs from position `at` of an endless stream. */
async function pairsFrom(data: EmbeddedDataset, { at, count }: { at: number; count: number }, seed: number) {
  if (count === 0) return [];
  const indices = rowsFrom(data.length, at, count, seed);
  return data.getMany ? await data.getMany(indices) : await Promise.all(indices.map((index) => data.get(index)));
}

/** Trains resampler and gated blocks on pictures and captions, and saves them; the language model stays as it is. */
export async function trainVlm(options: TrainVlmOptions): Promise<TrainVlmResult> {
  const { data, dataName, language, sizes, settings, output, overwrite, evaluation, maxTextTokens } = options;
  requireFreeOutput(options);
  checkData(data);
  requireTextTokens(language, maxTextTokens);
  const { tokenizerHash } = data.real;
  const architecture = vlmArchitecture(sizes, data.real, language);
  const trainer = new VlmTrainer(architecture, options);
  try {
    trainer.requireMemory(data.real);
    const completed = await runSteps(options, {
      title: "vlm",
      config: {
        data: dataName,
        pairs: [data.real.length, data.synthetic?.length ?? 0],
        syntheticShare: data.syntheticShare,
        tokenizerHash,
        language: language.hash,
        architecture,
        maxTextTokens,
        settings,
      },
      settings,
      parameters: trainer.state(),
      step: (index) => trainer.step(data, index),
      ...(evaluation && { evaluateEvery: evaluation.every, evaluate: () => evaluation.measure(trainer.model) }),
    });
    if (trainer.cut > 0) {
      options.progress?.warn(
        `${trainer.cut} captions were cut to maxTextTokens, ${maxTextTokens}: where they end is not learned. Raise it`,
      );
    }
    if (!completed) return { completed };
    const hash = await saveVlm(trainer.model, output, { language, tokenizerHash, ...(overwrite && { overwrite }) });
    return { completed, hash };
  } finally {
    trainer.dispose();
  }
}
