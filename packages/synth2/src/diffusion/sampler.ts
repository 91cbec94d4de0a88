import {
  add,
  compile,
  concat,
  ddimStep,
  InitialValues,
  multiply,
  philox,
  slice,
  subtract,
  type Tensor,
  tensor,
} from "@trefoil/core";
import { SynthError } from "../errors.js";
import type { Condition } from "../generator/stack.js";
import { textBatch } from "../generator/text.js";
import type { TextBatch } from "../generator/text-encoder.js";
import type { SampleRequest } from "../sampling/index.js";
import type { EmbeddingDenoiser } from "./denoiser.js";
import type { DiffusionSamplingOptions } from "./options.js";

export interface DiffusionRequest extends Pick<SampleRequest, "captions" | "seeds" | "negative" | "signal"> {
  /** Embeddings to keep, `[count, L, D]`, and where they are given, `[count, L]`: 1 or 0. Default: none. */
  given?: { embeddings: Float32Array; known: Uint8Array };
  /** @param guess `[count, L, D]`: the clean embeddings that the step expects */
  onStep?: (step: { step: number; steps: number; guess: Float32Array }) => void | Promise<void>;
}

/**
 * Draws embeddings with a continuous generator by DDIM. What is drawn for a caption depends on its seed alone, not on its batch; given
 * embeddings are kept: their noisy values stand in for the model's at every step.
 */
export class DiffusionSampler {
  readonly #condition;
  readonly #step;
  readonly #standardise;
  /** Values of a picture's embeddings. */
  readonly #width: number;

  /** @param rows pictures of a batch */
  constructor(
    readonly model: EmbeddingDenoiser,
    readonly options: Omit<DiffusionSamplingOptions, "snap">,
    readonly rows = 32,
  ) {
    const { gridSize, codeWidth, target, timesteps } = model.architecture;
    if (options.steps > timesteps) {
      throw new SynthError("SYNTH_OPTIONS", `${options.steps} steps are more than the ${timesteps} levels of noise`);
    }
    this.#width = gridSize ** 2 * codeWidth;
    this.#condition = compile((text: Record<keyof TextBatch, Tensor>) => model.condition(text));
    this.#standardise = compile((embeddings: Tensor) => model.standardise(embeddings));
    this.#step = compile((state: StepState, condition: Condition, guided: boolean) => {
      const { sample, times, alphaBar, nextAlphaBar, guidance, noise } = state;
      const rows = sample.shape[0]!;
      const all = model.predict(guided ? concat([sample, sample]) : sample, times, condition);
      const prediction = guided ? guide(slice(all, 0, 0, rows), slice(all, 0, rows), guidance) : all;
      const known = { sample, prediction, target, alphaBar };
      const random = options.eta > 0 ? { eta: options.eta, noise } : {};
      return {
        next: ddimStep({ ...known, nextAlphaBar, ...random }),
        guess: model.restore(ddimStep({ ...known, nextAlphaBar: 1 })),
      };
    });
  }

  /**
   * @returns embeddings `[count, L, D]`, anywhere between codes
   * @throws SynthError `SYNTH_OPTIONS`; the signal's reason when aborted
   */
  async sample(request: DiffusionRequest): Promise<Float32Array> {
    const { captions, seeds, given } = request;
    const count = captions.length;
    const positions = this.model.architecture.gridSize ** 2;
    const fits =
      !given || (given.embeddings.length === count * this.#width && given.known.length === count * positions);
    if (seeds.length !== count || !fits) {
      throw new SynthError("SYNTH_OPTIONS", `${count} captions need as many seeds, and ${positions} given rows each`);
    }
    const out = new Float32Array(count * this.#width);
    for (let at = 0; at < count; at += this.rows) {
      const end = Math.min(count, at + this.rows);
      const part = {
        ...request,
        captions: captions.slice(at, end),
        seeds: seeds.slice(at, end),
        ...(given && {
          given: {
            embeddings: given.embeddings.subarray(at * this.#width, end * this.#width),
            known: given.known.subarray(at * positions, end * positions),
          },
        }),
      };
      out.set(await this.#batch(part), at * this.#width);
    }
    return out;
  }

  async #batch({ captions, seeds, negative, given, onStep, signal }: DiffusionRequest): Promise<Float32Array> {
    const { steps, eta, guidance, guidanceRamp } = this.options;
    const { alphaBar, architecture } = this.model;
    const { gridSize, codeWidth, maxTextTokens, timesteps } = architecture;
    const count = captions.length;
    // One picture does not pay for a whole batch.
    const rows = count === 1 ? 1 : this.rows;
    const shape = [rows, gridSize ** 2, codeWidth];
    const guided = guidance > 0;
    const padded = Array.from({ length: rows }, (_, row) => captions[row] ?? new Int32Array(0));
    const others = guided ? padded.map(() => negative ?? new Int32Array(0)) : [];
    const condition = await this.#condition(textBatch([...padded, ...others], maxTextTokens));
    try {
      const start = this.#noise(seeds, rows, 0);
      let sample = start.slice();
      let guess = sample;
      const clean = given && (await this.#standardised(given.embeddings, shape));
      for (let step = 0; step < steps; step++) {
        signal?.throwIfAborted();
        const now = Math.round((timesteps * (steps - step)) / steps);
        const next = Math.round((timesteps * (steps - step - 1)) / steps);
        if (given && clean) keepKnown(sample, { clean, noise: start, known: given.known }, codeWidth, alphaBar[now]!);
        const levels = this.model.levels([now]);
        const state = {
          ...levels,
          sample: tensor(sample, { shape }),
          nextAlphaBar: tensor([alphaBar[next]!]),
          guidance: tensor([guidanceRamp && steps > 1 ? (guidance * step) / (steps - 1) : guidance]),
          noise: tensor(eta > 0 ? this.#noise(seeds, rows, step + 1) : new Float32Array(1), eta > 0 ? { shape } : {}),
        };
        const result = await this.#step(state, condition, guided);
        sample = (await result.next.data()) as Float32Array<ArrayBuffer>;
        guess = (await result.guess.data()) as Float32Array<ArrayBuffer>;
        if (given) keepGiven(guess, given, codeWidth);
        if (onStep) await onStep({ step: step + 1, steps, guess: guess.slice(0, count * this.#width) });
      }
      return guess.subarray(0, count * this.#width);
    } finally {
      for (const { keys, values } of condition.memories) for (const each of [keys, values]) each.dispose();
      condition.lengths.dispose();
    }
  }

  /** Standard normal numbers of each picture and step. */
  #noise(seeds: DiffusionRequest["seeds"], rows: number, step: number): Float32Array<ArrayBuffer> {
    const noise = new Float32Array(rows * this.#width);
    seeds.forEach(([low, high], row) => {
      const words = philox([low, high, step, 0x6464696d], [0, 0]);
      const stream = new InitialValues((words[0]! >>> 0) * 2 ** 21 + (words[1]! >>> 11));
      noise.set(stream.normal([this.#width], 1), row * this.#width);
    });
    return noise;
  }

  async #standardised(embeddings: Float32Array, shape: readonly number[]): Promise<Float32Array> {
    const padded = new Float32Array(shape.reduce((a, b) => a * b));
    padded.set(embeddings);
    return (await (await this.#standardise(tensor(padded, { shape }))).data()) as Float32Array;
  }
}

const guide = (conditional: Tensor, unconditional: Tensor, weight: Tensor): Tensor =>
  add(conditional, multiply(subtract(conditional, unconditional), weight));

/** Gives known positions of a sample as much noise as the rest has. */
function keepKnown(
  sample: Float32Array,
  { clean, noise, known }: { clean: Float32Array; noise: Float32Array; known: Uint8Array },
  width: number,
  alphaBar: number,
): void {
  const [signal, sigma] = [Math.sqrt(alphaBar), Math.sqrt(1 - alphaBar)];
  for (let i = 0; i < known.length * width; i++) {
    if (known[Math.floor(i / width)]) sample[i] = signal * clean[i]! + sigma * noise[i]!;
  }
}

function keepGiven(guess: Float32Array, given: { embeddings: Float32Array; known: Uint8Array }, width: number): void {
  given.known.forEach((known, at) => {
    if (known) guess.set(given.embeddings.subarray(at * width, (at + 1) * width), at * width);
  });
}

interface StepState {
  /** [rows, L, D], standardised. */
  sample: Tensor;
  /** [1, timeWidth] */
  times: Tensor;
  /** ᾱ now [1, 1, 1], and after the step [1]. */
  alphaBar: Tensor;
  nextAlphaBar: Tensor;
  /** [1] */
  guidance: Tensor;
  /** [rows, L, D], where η is not 0. */
  noise: Tensor;
}
