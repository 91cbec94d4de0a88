import {
  add,
  addNoise,
  cosineAlphaBar,
  denoiserTarget,
  divide,
  InitialValues,
  Linear,
  Module,
  mean,
  multiply,
  Parameter,
  reshape,
  silu,
  square,
  subtract,
  type Tensor,
  tensor,
} from "@trefoil/core";
import { type Condition, ConditionedStack } from "../generator/stack.js";
import type { TextBatch } from "../generator/text-encoder.js";
import type { DenoiserArchitecture } from "./architecture.js";

/** Sines and cosines that tell a network the level of noise. */
const timeWidth = 64;

/** Where a batch is between noise and picture. */
export interface NoiseLevels {
  /** [batch or 1, timeWidth] */
  times: Tensor;
  /** ᾱ, [batch or 1, 1, 1]. */
  alphaBar: Tensor;
}

/**
 * Predicts clean embeddings from noisy ones and a caption: Gaussian diffusion (arXiv 2006.11239) on embeddings, which are standardised
 * channel by channel.
 */
export class EmbeddingDenoiser extends Module {
  readonly input: Linear;
  readonly time: Linear;
  readonly timeOutput: Linear;
  readonly stack: ConditionedStack;
  readonly head: Linear;
  /** Mean and standard deviation of every channel of the embeddings, [codeWidth] each. */
  readonly offset: Parameter;
  readonly scale: Parameter;
  /** ᾱ of every timestep, from 1 at t = 0. */
  readonly alphaBar: Float64Array;

  constructor(
    readonly architecture: DenoiserArchitecture,
    seed = 0,
  ) {
    super();
    const initial = new InitialValues(seed);
    const { codeWidth, width, timesteps } = architecture;
    this.input = new Linear(codeWidth, width, { initial });
    this.time = new Linear(timeWidth, width, { initial });
    this.timeOutput = new Linear(width, width, { initial });
    this.stack = new ConditionedStack(architecture, initial);
    this.head = new Linear(width, codeWidth, { initial });
    this.offset = new Parameter([codeWidth], { trainable: false });
    this.scale = new Parameter([codeWidth], { trainable: false, data: new Float32Array(codeWidth).fill(1) });
    this.alphaBar = cosineAlphaBar(timesteps);
  }

  /** Standardises embeddings like these, channel by channel. @param embeddings `[…, codeWidth]` */
  fit(embeddings: Iterable<Float32Array>): void {
    const { codeWidth } = this.architecture;
    const [sums, squares] = [new Float64Array(codeWidth), new Float64Array(codeWidth)];
    let rows = 0;
    for (const some of embeddings) {
      for (let i = 0; i < some.length; i++) {
        sums[i % codeWidth]! += some[i]!;
        squares[i % codeWidth]! += some[i]! ** 2;
      }
      rows += some.length / codeWidth;
    }
    this.offset.set(Float32Array.from(sums, (sum) => sum / rows));
    // A channel that never changes stays as it is.
    this.scale.set(
      Float32Array.from(squares, (total, i) => Math.sqrt(Math.max(0, total / rows - (sums[i]! / rows) ** 2)) || 1),
    );
  }

  standardise(embeddings: Tensor): Tensor {
    return divide(subtract(embeddings, this.offset), this.scale);
  }

  /** The inverse of `standardise`. */
  restore(values: Tensor): Tensor {
    return add(multiply(values, this.scale), this.offset);
  }

  /** Of timesteps from 1 to `timesteps`, one for each row of a batch or one for all. */
  levels(timesteps: readonly number[]): NoiseLevels {
    const half = timeWidth / 2;
    const times = timesteps.flatMap((t) =>
      Array.from({ length: timeWidth }, (_, i) => {
        const angle = ((1000 * t) / this.architecture.timesteps) * 10_000 ** (-(i % half) / half);
        return i < half ? Math.sin(angle) : Math.cos(angle);
      }),
    );
    const alphaBar = timesteps.map((t) => this.alphaBar[t]!);
    return {
      times: tensor(times, { shape: [timesteps.length, timeWidth] }),
      alphaBar: tensor(alphaBar, { shape: [timesteps.length, 1, 1] }),
    };
  }

  condition(text: TextBatch): Condition {
    return this.stack.condition(text);
  }

  /** sample [batch, L, codeWidth], standardised and noisy -> the target, of the same shape */
  predict(sample: Tensor, times: Tensor, condition: Condition): Tensor {
    const level = this.timeOutput.forward(silu(this.time.forward(times)));
    const placed = add(this.input.forward(sample), reshape(level, [times.shape[0]!, 1, -1]));
    return this.head.forward(this.stack.forward(placed, condition));
  }

  /**
   * Mean squared error of the prediction.
   * @param embeddings [batch, L, codeWidth]
   * @param noise standard normal, of the same shape
   */
  loss(text: TextBatch, embeddings: Tensor, noise: Tensor, { times, alphaBar }: NoiseLevels): Tensor {
    const clean = this.standardise(embeddings);
    const predicted = this.predict(addNoise(clean, noise, alphaBar), times, this.condition(text));
    return mean(square(subtract(predicted, denoiserTarget(this.architecture.target, clean, noise, alphaBar))));
  }
}
