import { requireHostMemory } from "../device/host-memory.js";
import { recompute } from "../graph/index.js";
import type { TransformerConfig } from "../io/index.js";
import { type BalanceForm, type BalanceOptions, balanceLoss, zLoss } from "../nn/balance.js";
import { Embedding, Linear, RMSNorm } from "../nn/layers.js";
import type { Routing } from "../nn/mixture-of-experts.js";
import { Module } from "../nn/module.js";
import { InitialValues } from "../nn/random-init.js";
import { type RotaryTable, rotaryTable } from "../nn/rotary.js";
import type { RouterTraining } from "../nn/routing.js";
import {
  type AttentionContext,
  type AttentionPlaces,
  type CachePlace,
  pickRows,
  SelfAttention,
} from "../nn/self-attention.js";
import { linearCrossEntropy } from "../ops/cross-entropy.js";
import { add, broadcastTo, multiply } from "../ops/elementwise.js";
import { gatherRows, iota } from "../ops/indexing.js";
import { linear } from "../ops/matmul.js";
import { reshape } from "../ops/movement.js";
import { InvalidUseError, ShapeError } from "../tensor/errors.js";
import { sameShape } from "../tensor/shape.js";
import type { Tensor } from "../tensor/tensor.js";

/** What the shapes of a Llama-style decoder's parameters follow from. */
export type DecoderSizes = Pick<
  TransformerConfig,
  | "vocabSize"
  | "hiddenSize"
  | "intermediateSize"
  | "layers"
  | "heads"
  | "keyValueHeads"
  | "headDim"
  | "tieWordEmbeddings"
>;

/** The sizes and constants of a Llama-style decoder. A `TransformerConfig` read from a folder is one. */
export type DecoderConfig = DecoderSizes &
  Pick<
    TransformerConfig,
    "rmsNormEps" | "ropeTheta" | "ropeScaling" | "maxPositions" | "slidingWindow" | "initializerRange"
  >;

/** What a block's feed-forward half gives: its output, and the router's decisions if it has a router. */
export interface FeedForwardResult {
  output: Tensor;
  routing?: Routing;
}

/** One pre-norm decoder block: attention and a feed-forward layer, each with a residual connection. */
export abstract class DecoderBlock extends Module {
  readonly selfAttn: SelfAttention;
  readonly inputLayernorm: RMSNorm;
  readonly postAttentionLayernorm: RMSNorm;

  constructor(config: DecoderConfig, initial: InitialValues) {
    super();
    const { hiddenSize, heads, keyValueHeads, headDim, initializerRange: standardDeviation, rmsNormEps } = config;
    this.selfAttn = new SelfAttention({ hiddenSize, heads, keyValueHeads, headDim, standardDeviation, initial });
    this.inputLayernorm = new RMSNorm(hiddenSize, rmsNormEps);
    this.postAttentionLayernorm = new RMSNorm(hiddenSize, rmsNormEps);
  }

  protected abstract feedForward(x: Tensor, router?: RouterTraining): FeedForwardResult;

  /** x [batch, sequence, hidden]; the output has the rows that ask (`places.asking`), by default all */
  forward(x: Tensor, context: AttentionContext, router?: RouterTraining): FeedForwardResult {
    const asking = context.places?.asking;
    const attended = add(
      asking ? pickRows(x, asking.rows) : x,
      this.selfAttn.forward(this.inputLayernorm.forward(x), context),
    );
    const { output, ...rest } = this.feedForward(this.postAttentionLayernorm.forward(attended), router);
    return { output: add(attended, output), ...rest };
  }
}

/** Embedding, blocks and final norm: the part that Hugging Face names `model`. */
class DecoderStack extends Module {
  readonly embedTokens: Embedding;
  readonly layers: DecoderBlock[];
  readonly norm: RMSNorm;

  constructor(config: DecoderConfig, initial: InitialValues, block: (layer: number) => DecoderBlock) {
    super();
    const { vocabSize, hiddenSize, layers, rmsNormEps, initializerRange: standardDeviation } = config;
    this.embedTokens = new Embedding(vocabSize, hiddenSize, { standardDeviation, initial });
    this.layers = Array.from({ length: layers }, (_, layer) => {
      const made = block(layer);
      // Every block has this much; a mixture's feed-forward layers differ.
      if (layer === 0) {
        const least = 4 * layers * made.selfAttn.parameterCount();
        requireHostMemory(least, `attention in ${layers} layers`, "choose fewer layers");
      }
      return made;
    });
    this.norm = new RMSNorm(hiddenSize, rmsNormEps);
  }
}

/**
 * Sequences whose tokens are computed once where they begin alike: shared prompts, system prompts. Each token row is that of one
 * beginning, and stands in every sequence that begins so: as key at its position, as query as far from the end of [sequences, length] as
 * it is from the sequence's end.
 */
export interface SharedRows {
  /** i32 [1, rows]: how far from the beginning each token row stands. */
  positions: Tensor;
  /** i32 [sequences, length]: the token row at each position; -1 behind the end. */
  keys: Tensor;
  /** i32 [sequences] */
  lengths: Tensor;
  /** i32 [sequences, length]: the same moved to the end; -1 before it. */
  queries: Tensor;
  /** i32 [rows]: where in `queries`, of sequences * length, each token row stands. Any of its places will do. */
  standing: Tensor;
  /**
   * What is read of the last layer, n states: their token rows and positions, i32 [n], where in `queries` they stand, i32 [n], and
   * 0, 1, … there with -1 elsewhere, i32 [sequences, length].
   */
  read: { rows: Tensor; positions: Tensor; standing: Tensor; queries: Tensor };
}

export interface LossOptions {
  /** [batch, sequence]: what each target counts. Default: the mean over targets, ignored ones (-1) counted in the divisor. */
  weights?: Tensor;
  /** i32 [batch, sequence]: attention stays inside a segment (packed documents). */
  segments?: Tensor;
  /** i32 [batch, sequence]: where each token stands in its document. Default 0, 1, …; rotations tell distances only. */
  positions?: Tensor;
  /** [batch, sequence], 1 or 0: which tokens the losses of routers count. Default: all. */
  counted?: Tensor;
  /** Keep only the inputs of decoder blocks for the backward pass and compute the rest again (`recompute`). Default false. */
  recompute?: boolean;
  /** Balancing of the routers: `coefficient` times `balanceLoss` in this form. */
  balance?: { form: BalanceForm; coefficient: number; layers?: BalanceOptions["layers"] };
  /** Coefficient of the routers' z-loss, summed over layers. */
  zLoss?: number;
  /** In training: noise and temperature of sampling routers, which then also drop what exceeds their capacity. */
  router?: RouterTraining;
}

export interface LossResult {
  /** What to differentiate: cross-entropy plus balancing and z-loss. */
  loss: Tensor;
  /** The language-modelling part, nats per target. */
  crossEntropy: Tensor;
  /** Negative log-likelihood of each target, [batch * sequence]; 0 where ignored. */
  nll: Tensor;
  /** The balancing loss with coefficient 1; absent without routers or `balance`. */
  balance?: Tensor;
  /** The z-loss with coefficient 1; absent without routers or `zLoss`. */
  zLoss?: Tensor;
  routing: Routing[];
}

/** A Llama-style causal language model; parameter names are Hugging Face's where the layout is (models/weights.ts maps the rest). */
export abstract class CausalLM<C extends DecoderConfig = DecoderConfig> extends Module {
  readonly config: C;
  readonly model: DecoderStack;
  readonly lmHead: Linear | null;
  readonly #rotary: RotaryTable;

  /** @param seed of the initial weights: normal with `initializerRange`, norms 1 */
  constructor(config: C, seed: number, block: (initial: InitialValues, layer: number) => DecoderBlock) {
    super();
    if (config.slidingWindow !== undefined && config.slidingWindow < config.maxPositions) {
      throw new InvalidUseError(
        `sliding_window ${config.slidingWindow} is shorter than max_position_embeddings ${config.maxPositions}: windowed attention ` +
          "is not computed here; set sliding_window to null if the context stays inside the window",
      );
    }
    this.config = config;
    const initial = new InitialValues(seed);
    this.model = new DecoderStack(config, initial, (layer) => block(initial, layer));
    const { vocabSize, hiddenSize, tieWordEmbeddings, initializerRange: standardDeviation } = config;
    this.lmHead = tieWordEmbeddings
      ? null
      : new Linear(hiddenSize, vocabSize, { bias: false, standardDeviation, initial });
    this.#rotary = rotaryTable(config.maxPositions, config.headDim, config.ropeTheta, config.ropeScaling);
  }

  /** The output projection, [vocabulary, hidden]. */
  get headWeight(): Tensor {
    return this.lmHead?.weight ?? this.model.embedTokens.weight;
  }

  /**
   * Final hidden states after the last norm, and the routers' decisions, mixture layer by mixture layer.
   * @param tokens i32 [batch, sequence]; with `shared` [1, rows]
   * @param context positions, segments, cache, router training, and whether blocks are recomputed; by default positions 0, 1, …,
   *   no cache, routes as at inference, and nothing recomputed
   * @returns hidden [batch, sequence, hidden]; with `shared` [1, n, hidden], of what is read
   */
  hidden(
    tokens: Tensor,
    context: Partial<Pick<AttentionContext, "positions" | "segments">> & {
      caches?: Omit<CachePlace, "at"> & { layers: readonly CachePlace["at"][] };
      router?: RouterTraining | undefined;
      recompute?: boolean;
      shared?: SharedRows;
      /** Takes the place of the states [batch, sequence, hidden] that enter a layer: what adapters insert. */
      beforeLayer?: (x: Tensor, layer: number) => Tensor;
    } = {},
  ): { hidden: Tensor; routing: Routing[] } {
    if (tokens.rank !== 2) throw new ShapeError("hidden", "tokens must be [batch, sequence]", [tokens.shape]);
    const { shared } = context;
    const given = shared?.positions ?? context.positions;
    const sequence = tokens.shape[1]!;
    // With positions of their own, several sequences can stand in one row.
    if (given === undefined && sequence > this.config.maxPositions) {
      throw new ShapeError("hidden", `the sequence is longer than maxPositions ${this.config.maxPositions}`, [
        tokens.shape,
      ]);
    }
    const positions = given ?? broadcastTo(reshape(iota(sequence), [1, sequence]), tokens.shape);
    const routing: Routing[] = [];
    let x = this.model.embedTokens.forward(tokens);
    this.model.layers.forEach((layer, i) => {
      const { caches, segments } = context;
      const cache = caches && { ...caches, at: caches.layers[i]! };
      const places = shared && placesOf(shared, i === this.model.layers.length - 1);
      const forward = (input: Tensor) =>
        layer.forward(input, { rotary: this.#rotary, positions, segments, places, cache }, context.router);
      x = context.beforeLayer?.(x, i) ?? x;
      const result = context.recompute ? recompute(forward, x) : forward(x);
      if (result.routing) routing.push(result.routing);
      x = result.output;
    });
    return { hidden: this.model.norm.forward(x), routing };
  }

  /** i32 [batch, sequence] -> [batch, sequence, vocabulary]. */
  logits(tokens: Tensor): Tensor {
    return linear(this.hidden(tokens).hidden, this.headWeight);
  }

  /**
   * Cross-entropy of the next tokens, without holding `[batch * sequence, vocabulary]`.
   * @param tokens i32 [batch, sequence]
   * @param targets i32 [batch, sequence], -1: ignored
   */
  loss(tokens: Tensor, targets: Tensor, options: LossOptions = {}): LossResult {
    if (!sameShape(tokens.shape, targets.shape)) {
      throw new ShapeError("loss", "tokens and targets must have the same shape", [tokens.shape, targets.shape]);
    }
    const { segments, positions, recompute, router } = options;
    const { hidden, routing } = this.hidden(tokens, {
      ...(segments && { segments }),
      ...(positions && { positions }),
      ...(recompute && { recompute }),
      router,
    });
    const rows = tokens.size;
    const weights = options.weights && reshape(options.weights, [rows]);
    const flat = reshape(hidden, [rows, this.config.hiddenSize]);
    const { loss: crossEntropy, nll } = linearCrossEntropy(flat, this.headWeight, reshape(targets, [rows]), weights);
    const result: LossResult = { loss: crossEntropy, crossEntropy, nll, routing };
    const mask = options.counted && { mask: reshape(options.counted, [rows]) };
    if (routing.length > 0 && options.balance) {
      const { form, coefficient, layers = "sum" } = options.balance;
      const balance = balanceLoss(routing, form, { layers, ...mask });
      result.loss = add(crossEntropy, multiply(balance, coefficient));
      result.balance = balance;
    }
    if (routing.length > 0 && options.zLoss) {
      result.zLoss = zLoss(routing, mask);
      result.loss = add(result.loss, multiply(result.zLoss, options.zLoss));
    }
    return result;
  }

  /** Rows of the final hidden states: hidden [batch, sequence, D], index i32 [n] into batch * sequence -> logits [n, vocabulary]. */
  logitsAt(hidden: Tensor, index: Tensor): Tensor {
    return linear(gatherRows(reshape(hidden, [-1, this.config.hiddenSize]), index), this.headWeight);
  }
}

/** In the last layer only what is read asks. */
const placesOf = ({ keys, lengths, queries, standing, read }: SharedRows, last: boolean): AttentionPlaces =>
  last
    ? { keys, lengths, queries: read.queries, results: read.standing, asking: read }
    : { keys, lengths, queries, results: standing };
