import {
  add,
  attention,
  broadcastTo,
  FeedForward,
  type InitialValues,
  Linear,
  Module,
  Parameter,
  RMSNorm,
  reshape,
  type Tensor,
} from "@trefoil/core";
import { Overview } from "./overview.js";
import type { Rotary } from "./rotary.js";

/** Keys and values that queries of one layer read: both [batch, keys, heads, headDim]. */
export interface AttentionMemory {
  keys: Tensor;
  values: Tensor;
}

/** Bidirectional attention from x to itself or to another sequence; positions only where it is given rotations. */
export class Attention extends Module {
  readonly queries: Linear;
  readonly keys: Linear;
  readonly values: Linear;
  readonly output: Linear;
  readonly #heads: number;

  constructor(width: number, sourceWidth: number, heads: number, initial: InitialValues) {
    super();
    // Logits of deviation 1 for normed inputs: the usual ± 1/√inputs makes them a third of that, and all keys are read alike.
    const sharp = (inputs: number) =>
      new Linear(inputs, width, { bias: false, standardDeviation: 1 / Math.sqrt(inputs), initial });
    [this.queries, this.keys] = [sharp(width), sharp(sourceWidth)];
    this.values = new Linear(sourceWidth, width, { bias: false, initial });
    this.output = new Linear(width, width, { bias: false, standardDeviation: 0.05, initial });
    this.#heads = heads;
  }

  /** What queries will read of a source [batch, keys, sourceWidth]; the same for every step of decoding. */
  memory(source: Tensor, rotary?: Rotary): AttentionMemory {
    const keys = this.#split(this.keys.forward(source));
    return { keys: rotary ? rotary.turn(keys) : keys, values: this.#split(this.values.forward(source)) };
  }

  /**
   * @param lengths i32 [batch]: how many keys are real
   * @param rotary what the keys were turned by
   */
  forward(x: Tensor, { keys, values }: AttentionMemory, lengths?: Tensor, rotary?: Rotary): Tensor {
    const straight = this.#split(this.queries.forward(x));
    const queries = rotary ? rotary.turn(straight) : straight;
    const mixed = attention(queries, keys, values, lengths ? { keyLengths: lengths } : {});
    return this.output.forward(reshape(mixed, x.shape));
  }

  /** What every query gets of a source whose rows are all `state` [sourceWidth]: [width]. */
  ofConstant(state: Tensor): Tensor {
    return reshape(this.output.forward(this.values.forward(reshape(state, [1, -1]))), [-1]);
  }

  #split(x: Tensor): Tensor {
    const [batch, rows, width] = x.shape as [number, number, number];
    return reshape(x, [batch, rows, this.#heads, width / this.#heads]);
  }
}

type BlockSource = { memory: AttentionMemory; lengths: Tensor } | { constant: Tensor };

const feedForward = (hiddenSize: number, intermediateSize: number, initial: InitialValues): FeedForward =>
  new FeedForward({ hiddenSize, intermediateSize, standardDeviation: 1 / Math.sqrt(3 * hiddenSize), initial });

/** Self-attention; where there is a source, cross-attention and an overview; feed-forward. Pre-norm with residual connections. */
export class Block extends Module {
  readonly selfNorm: RMSNorm;
  readonly self: Attention;
  readonly crossNorm: RMSNorm | null;
  readonly cross: Attention | null;
  readonly overview: Overview | null;
  readonly forwardNorm: RMSNorm;
  readonly mlp: FeedForward;

  constructor(
    sizes: { width: number; heads: number; feedForward: number; sourceWidth?: number },
    initial: InitialValues,
  ) {
    super();
    const { width, heads, sourceWidth } = sizes;
    this.selfNorm = new RMSNorm(width);
    this.self = new Attention(width, width, heads, initial);
    this.crossNorm = sourceWidth === undefined ? null : new RMSNorm(width);
    this.cross = sourceWidth === undefined ? null : new Attention(width, sourceWidth, heads, initial);
    this.overview = sourceWidth === undefined ? null : new Overview(width, initial);
    this.forwardNorm = new RMSNorm(width);
    this.mlp = feedForward(width, sizes.feedForward, initial);
  }

  /**
   * @param x [batch, sequence, width]
   * @param rotary of the sequence's positions
   * @param lengths i32 [batch]: of the sequence itself; all of it where absent
   * @param source what cross-attention reads, and i32 [batch] how much of it is real, for a batch or x's only row; or what it gives
   * for every query, [width]
   */
  forward(x: Tensor, rotary: Rotary, lengths?: Tensor, source?: BlockSource): Tensor {
    const inner = this.selfNorm.forward(x);
    const own = this.self.forward(inner, this.self.memory(inner, rotary), lengths, rotary);
    let y = add(x, source && "constant" in source ? add(own, source.constant) : own);
    if (this.cross && this.crossNorm && this.overview && source) {
      if ("memory" in source) {
        const batch = source.lengths.shape[0]!;
        if (y.shape[0] !== batch) y = broadcastTo(y, [batch, ...y.shape.slice(1)]);
        y = add(y, this.cross.forward(this.crossNorm.forward(y), source.memory, source.lengths));
      }
      y = this.overview.forward(y);
    }
    return add(y, this.mlp.forward(this.forwardNorm.forward(y)));
  }
}

/** A table of learned positions, as large as what they are added to: hidden codes differ by nothing else. */
export const positionTable = (rows: number, width: number, initial: InitialValues): Parameter =>
  new Parameter([rows, width], { data: initial.normal([rows, width], 0.3) });
