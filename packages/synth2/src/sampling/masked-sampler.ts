import {
  broadcastTo,
  compile,
  haltonCounts,
  haltonPriority,
  maskCounts,
  maskedDiffusionStep,
  slice,
  type Tensor,
  tensor,
} from "@trefoil/core";
import { SynthError } from "../errors.js";
import type { MaskedGenerator } from "../generator/masked-model.js";
import { joinTokens, splitCodes } from "../generator/slots.js";
import type { Condition, NoCondition } from "../generator/stack.js";
import { type CaptionTokens, textBatch } from "../generator/text.js";
import type { SamplingOptions } from "./options.js";

/** A code that is not known yet, in `given` and in `SamplingStep.tokens`. */
export const UNKNOWN_CODE = -1;

/** What a step of decoding has come to. */
export interface SamplingStep {
  /** From 1. */
  step: number;
  steps: number;
  /** `[count, L]`: codes that are settled; -1 elsewhere. */
  tokens: Int32Array;
  /** `[count, L]`: the best guess at every position. */
  sampled: Int32Array;
}

export interface SampleRequest {
  captions: readonly CaptionTokens[];
  /** Two words of each picture, see `pictureSeed`. */
  seeds: readonly (readonly [number, number])[];
  /** What the pictures should not show, one for all; replaces "no caption" in the guidance. */
  negative?: CaptionTokens;
  /** `[count, L]`: codes to keep, -1 where the picture is to be painted in. Default: all unknown. */
  given?: Int32Array;
  onStep?: (step: SamplingStep) => void | Promise<void>;
  /** Aborted: stops before the next step and throws its reason. */
  signal?: AbortSignal;
}

/**
 * Draws codes with a masked generator. Pictures are drawn in batches of one size; text and its keys and values are computed once
 * for all steps. What is drawn for a caption depends on its seed alone. With guidance a step has two passes over the same codes, which
 * share all that comes before the first caption is read; without a negative prompt the second one reads no text at all.
 */
export class MaskedSampler {
  readonly #condition;
  readonly #noCondition;
  readonly #step;
  /** Entries of the codebooks in a picture. */
  readonly #width: number;

  /** @param rows pictures of a batch */
  constructor(
    readonly model: MaskedGenerator,
    readonly options: SamplingOptions,
    readonly rows = 32,
  ) {
    const { topK, topP, order } = options;
    const { alphabet, books } = model.slots;
    if (topK > alphabet) throw new SynthError("SYNTH_OPTIONS", `topK ${topK} is more than the ${alphabet} codes`);
    this.#width = model.architecture.gridSize ** 2 * books.length;
    const maskToken = model.maskToken;
    this.#condition = compile((text: Parameters<MaskedGenerator["condition"]>[0]) => model.condition(text));
    this.#noCondition = compile(() => model.noCondition());
    // `other`: what is guided away from. `alike`: pictures of which nothing is known yet have the same codes, so one stands for all.
    this.#step = compile(
      (state: StepState, condition: Condition, other: Condition | NoCondition | null, alike: boolean) => {
        const { tokens, remaining, controls, keys, priority } = state;
        const seen = alike ? slice(tokens, 0, 0, 1) : tokens;
        const logits = model.logits(seen, condition);
        const inputs = {
          logits,
          unconditional: other && broadcastTo(model.logits(seen, other), logits.shape),
          tokens,
          remaining,
          controls,
          priority: order === "halton" ? priority : null,
        };
        const filter = { maskToken, topK, topP, order: order === "random" ? "random" : "confidence" } as const;
        const { tokens: next, sampled } = maskedDiffusionStep(inputs, filter, keys);
        return { next, sampled };
      },
    );
  }

  /**
   * @returns codes `[count, L]`
   * @throws SynthError `SYNTH_OPTIONS`, `SYNTH_DATA`; the signal's reason when aborted
   */
  async sample(request: SampleRequest): Promise<Int32Array> {
    const { captions, seeds, given } = request;
    const count = captions.length;
    const positions = this.model.architecture.gridSize ** 2;
    if (seeds.length !== count || (given && given.length !== count * positions)) {
      throw new SynthError("SYNTH_OPTIONS", `${count} captions need as many seeds, and ${positions} given codes each`);
    }
    this.#checkGiven(given);
    const out = new Int32Array(count * positions);
    for (let at = 0; at < count; at += this.rows) {
      const end = Math.min(count, at + this.rows);
      const part = {
        ...request,
        captions: captions.slice(at, end),
        seeds: seeds.slice(at, end),
        ...(given && { given: given.subarray(at * positions, end * positions) }),
      };
      out.set(await this.#batch(part), at * positions);
    }
    return out;
  }

  async #batch({ captions, seeds, negative, given, onStep, signal }: SampleRequest): Promise<Int32Array> {
    const { steps, guidance, guidanceRamp, temperature, confidenceNoise, schedule, order } = this.options;
    const { maxTextTokens, gridSize } = this.model.architecture;
    const count = captions.length;
    // One picture does not pay for a whole batch.
    const rows = count === 1 ? 1 : this.rows;
    const padded = Array.from({ length: rows }, (_, row) => captions[row] ?? new Int32Array(0));
    const textOf = (texts: readonly CaptionTokens[]) => this.#condition(textBatch(texts, maxTextTokens));
    const condition = await textOf(padded);
    const other =
      guidance > 0 ? await (negative?.length ? textOf(padded.map(() => negative)) : this.#noCondition()) : null;
    try {
      const { slots } = this.model;
      let tokens = new Int32Array(rows * this.#width).fill(this.model.maskToken);
      if (given) tokens.set(splitCodes(given, slots));
      const counts = padded.map((_, row) => {
        const own = tokens.subarray(row * this.#width, (row + 1) * this.#width);
        const hidden = own.reduce((sum, token) => sum + (token === this.model.maskToken ? 1 : 0), 0);
        if (order === "halton" && (schedule ?? "arccos") === "arccos") return haltonCounts(hidden, steps);
        return maskCounts(hidden, steps, schedule ?? "cosine");
      });
      const priority = this.#priorities(seeds, rows, gridSize);
      let sampled = tokens;
      for (let step = 0; step < steps; step++) {
        signal?.throwIfAborted();
        const elapsed = (step + 1) / steps;
        const w = guidanceRamp && steps > 1 ? (guidance * step) / (steps - 1) : guidance;
        const state = {
          tokens: tensor(tokens, { shape: [rows, this.#width] }),
          remaining: tensor(Int32Array.from(counts, (each) => each[step]!)),
          controls: tensor(Float32Array.of(w, temperature, confidenceNoise * (1 - elapsed))),
          keys: tensor(philoxKeys(seeds, rows, step), { shape: [rows, 4] }),
          priority,
        };
        const result = await this.#step(state, condition, other, step === 0 && !given);
        tokens = (await result.next.data()) as Int32Array<ArrayBuffer>;
        sampled = (await result.sampled.data()) as Int32Array<ArrayBuffer>;
        if (onStep) {
          const codes = (from: Int32Array) => joinTokens(from.subarray(0, count * this.#width), slots, UNKNOWN_CODE);
          await onStep({ step: step + 1, steps, tokens: codes(tokens), sampled: codes(sampled) });
        }
      }
      return joinTokens(sampled.subarray(0, count * this.#width), slots);
    } finally {
      disposeCondition(condition);
      if (other) disposeCondition(other);
    }
  }

  /** The Halton order of each picture, rolled around the grid by its seed. */
  #priorities(seeds: SampleRequest["seeds"], rows: number, gridSize: number): Tensor {
    const { order, haltonRoll } = this.options;
    const values = new Float32Array(rows * this.#width);
    if (order === "halton") {
      const base = haltonPriority(gridSize, gridSize);
      const books = this.model.slots.books.length;
      for (let row = 0; row < rows; row++) {
        const shift = haltonRoll ? ((seeds[row]?.[0] ?? 0) >>> 0) % base.length : 0;
        for (let i = 0; i < this.#width; i++) {
          // All entries of a position before the next one.
          const at = (Math.floor(i / books) + shift) % base.length;
          values[row * this.#width + at * books + (i % books)] = base[Math.floor(i / books)]! * books - (i % books);
        }
      }
    }
    return tensor(values, { shape: [rows, this.#width] });
  }

  #checkGiven(given: Int32Array | undefined): void {
    const { codes } = this.model.architecture;
    const wrong = given?.find((code) => code !== UNKNOWN_CODE && (code < 0 || code >= codes));
    if (wrong !== undefined) throw new SynthError("SYNTH_DATA", `given code ${wrong} is outside of the ${codes} codes`);
  }
}

function disposeCondition(condition: Condition | NoCondition): void {
  if ("additions" in condition) for (const each of condition.additions) each.dispose();
  else {
    for (const { keys, values } of condition.memories) for (const each of [keys, values]) each.dispose();
    condition.lengths.dispose();
  }
}

interface StepState {
  /** i32 [rows, L books] */
  tokens: Tensor;
  /** i32 [rows] */
  remaining: Tensor;
  /** [3] */
  controls: Tensor;
  /** i32 [rows, 4] */
  keys: Tensor;
  /** [rows, L books] */
  priority: Tensor;
}

/** Philox states, one to a picture: its two words, then the step. */
function philoxKeys(seeds: SampleRequest["seeds"], rows: number, step: number): Int32Array {
  const keys = new Int32Array(rows * 4);
  for (let row = 0; row < rows; row++) keys.set([...(seeds[row] ?? [0, 0]), step, 0], row * 4);
  return keys;
}
