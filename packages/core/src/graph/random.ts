import { greaterEqual, multiply } from "../ops/elementwise.js";
import {
  type MaskedStepInputs,
  type MaskedStepOptions,
  type MaskedStepResult,
  maskedDiffusionStep,
} from "../ops/masked-diffusion.js";
import { philoxAdvance, philoxNormal, philoxSampleTokens, philoxUniform, type SamplingOptions } from "../ops/random.js";
import { InvalidUseError } from "../tensor/errors.js";
import type { Shape } from "../tensor/shape.js";
import { Parameter, type Tensor } from "../tensor/tensor.js";
import { currentTrace } from "./trace.js";

/**
 * Random numbers from Philox 4x32-10. The state is a parameter, so checkpoints hold it: the same seed gives the same numbers
 * on any number of threads and after any resume. Every compiled run that draws numbers advances it by one step.
 */
export class RandomGenerator {
  /** i32 [4]: seed low, seed high, step low, step high. */
  readonly state: Parameter;

  constructor(seed: number) {
    this.state = new Parameter([4], { data: seedWords(seed), trainable: false });
  }

  /** Restarts the generator. */
  seed(seed: number): void {
    this.state.set(seedWords(seed));
  }

  /** Uniform on [0, 1). */
  uniform(shape: Shape): Tensor {
    return philoxUniform(this.state, shape, this.#stream());
  }

  /** Standard normal. */
  normal(shape: Shape): Tensor {
    return philoxNormal(this.state, shape, this.#stream());
  }

  /**
   * Dropout: each value of `x` is 0 with probability `rate`, and the others are divided by `1 - rate`. There is no training mode:
   * leave it out of the functions that evaluate.
   * @throws InvalidUseError for a rate that is not from 0 to below 1
   */
  dropout(x: Tensor, rate: number): Tensor {
    if (!(rate >= 0 && rate < 1)) throw new InvalidUseError(`dropout: rate is ${rate}; it must be from 0 to below 1`);
    if (rate === 0) return x;
    return multiply(x, multiply(greaterEqual(this.uniform(x.shape), rate), 1 / (1 - rate)));
  }

  /** One token per row of `logits` [B, V]: `token` i32 [B] and its `logProbability` [B]. */
  sampleTokens(logits: Tensor, options: SamplingOptions = {}): { token: Tensor; logProbability: Tensor } {
    return philoxSampleTokens(logits, this.state, this.#stream(), options);
  }

  /** What a checkpoint needs, by name: `state`. */
  namedState(): Map<string, Parameter> {
    return new Map([["state", this.state]]);
  }

  /** One step of masked-token decoding: see the function of this name. */
  maskedDiffusionStep(inputs: MaskedStepInputs, options: MaskedStepOptions): MaskedStepResult {
    return maskedDiffusionStep(inputs, options, this.state, this.#stream());
  }

  // Random ops of one trace draw from one step and differ by stream; the step advances when the trace ends.
  #stream(): number {
    const trace = currentTrace();
    if (!trace) throw new InvalidUseError("random numbers are drawn inside compile(), where the generator can advance");
    trace.atEnd(this, () => this.state.assign(philoxAdvance(this.state)));
    return trace.nextStream();
  }
}

function seedWords(seed: number): Int32Array {
  if (!Number.isSafeInteger(seed) || seed < 0)
    throw new InvalidUseError(`the seed is ${seed}; it must be a whole number >= 0`);
  return Int32Array.of(seed | 0, Math.floor(seed / 2 ** 32) | 0, 0, 0);
}
