import {
  add,
  argmax,
  cast,
  divide,
  exp,
  floor,
  gatherLast,
  gatherRows,
  greater,
  type InitialValues,
  less,
  log,
  Module,
  mean,
  multiply,
  negate,
  ones,
  Parameter,
  type RandomGenerator,
  reshape,
  scatterAddRows,
  sqrt,
  square,
  stopGradient,
  subtract,
  sum,
  type Tensor,
  vectorQuantise,
  vqLookup,
  where,
} from "@trefoil/core";

/** Rows of length 1. */
export const unitRows = (x: Tensor): Tensor =>
  divide(x, sqrt(add(sum(square(x), { axes: x.rank - 1, keepDims: true }), 1e-12)));

export interface QuantisedLatents {
  /** i32 [R] */
  index: Tensor;
  /** What was quantised, [R, D]: the latents, of length 1 where codes are. */
  latents: Tensor;
  /** The codes, [R, D]; the gradient passes straight through to the latents. */
  quantised: Tensor;
  /** Mean squared distance of codes to fixed latents: what moves a codebook that learns by gradient. */
  codebookLoss: Tensor;
  /** Mean squared distance of latents to fixed codes: the commitment loss, before its weight β. */
  commitment: Tensor;
}

/** The table of codes: [K, D]. */
export class Codebook extends Module {
  readonly weight: Parameter;

  constructor(
    codes: number,
    width: number,
    readonly normalise: boolean,
    initial: InitialValues,
  ) {
    super();
    this.weight = new Parameter([codes, width], { data: initial.uniform([codes, width], 1 / codes) });
  }

  /** The codes as they are compared and handed on, [K, D]. */
  table(): Tensor {
    return this.normalise ? unitRows(this.weight) : this.weight;
  }

  /** Numbers of the nearest codes of latents [R, D]: i32 [R]. */
  nearest(latents: Tensor): Tensor {
    return vqLookup(this.normalise ? unitRows(latents) : latents, this.table()).index;
  }

  /** Nearest codes of latents [R, D] (VQ-VAE, arXiv 1711.00937, equations 1 to 3). */
  quantise(latents: Tensor): QuantisedLatents {
    const z = this.normalise ? unitRows(latents) : latents;
    const { index, codes, quantised } = vectorQuantise(z, this.table());
    return {
      index,
      latents: z,
      quantised,
      codebookLoss: mean(square(subtract(codes, stopGradient(z)))),
      commitment: mean(square(subtract(z, stopGradient(codes)))),
    };
  }
}

export interface CodebookUpdate {
  /** Whether codes follow their latents by moving averages ("ema"), or the optimiser moves them. */
  learning: "ema" | "gradient";
  /** Decay γ of the moving averages. */
  decay: number;
  /** A code with fewer latents per batch than this, on average, is replaced by a latent of the batch; 0: never. */
  reviveBelow: number;
  /** A dead code becomes the worst represented of this many latents of the batch, drawn at random; 1 takes any. */
  reviveCandidates: number;
}

const epsilon = 1e-5;

/** Moving counts and sums of what each code was used for; part of a run, not of the tokenizer. */
export class CodebookUsage extends Module {
  /** N, [K]: latents per batch. */
  readonly counts: Parameter;
  /** m, [K, D]: their sum. */
  readonly sums: Parameter;

  constructor(codes: number, width: number) {
    super();
    this.counts = new Parameter([codes], { trainable: false });
    this.sums = new Parameter([codes, width], { trainable: false });
  }

  /**
   * Records one update, after the forward pass and after the optimiser (VQ-VAE, appendix A.1; `e = m / N` with the counts smoothed).
   * All counts are 0 at first, so that revival fills the whole codebook from the first batch.
   * @param latents [R, D]
   * @param index i32 [R]
   * @param reviving 0 or 1, a scalar: switches revival off
   */
  update(
    codebook: Codebook,
    { latents, index }: Pick<QuantisedLatents, "latents" | "index">,
    { learning, decay, reviveBelow, reviveCandidates }: CodebookUpdate,
    random: RandomGenerator,
    reviving: Tensor,
  ): { revived: Tensor } {
    const [codes] = codebook.weight.shape as [number, number];
    const [rows] = latents.shape as [number, number];
    const z = stopGradient(latents);
    const blend = (old: Tensor, now: Tensor) => add(multiply(old, decay), multiply(now, 1 - decay));
    let counts = blend(this.counts, reshape(scatterAddRows(ones([rows, 1]), index, codes), [codes]));
    let sums = blend(this.sums, scatterAddRows(z, index, codes));
    const total = sum(counts);
    const smoothed = multiply(divide(add(counts, epsilon), add(total, codes * epsilon)), total);
    let table: Tensor = learning === "ema" ? divide(sums, reshape(smoothed, [codes, 1])) : codebook.weight;
    let revived: Tensor = multiply(reviving, 0);
    if (reviveBelow > 0) {
      const dead = multiply(less(counts, reviveBelow), reviving);
      const column = reshape(dead, [codes, 1]);
      const drawn = gatherRows(z, this.#candidates(codebook, z, index, reviveCandidates, random));
      table = where(column, drawn, table);
      counts = where(dead, 1, counts);
      sums = where(column, drawn, sums);
      revived = sum(dead);
    }
    codebook.weight.assign(learning === "ema" && codebook.normalise ? unitRows(table) : table);
    this.counts.assign(counts);
    this.sums.assign(sums);
    return { revived };
  }

  /** Rows of latents, i32 [K]: for each code the one farthest from its nearest code among some drawn at random. */
  #candidates(codebook: Codebook, z: Tensor, index: Tensor, candidates: number, random: RandomGenerator): Tensor {
    const [codes] = codebook.weight.shape as [number, number];
    const [rows] = z.shape as [number, number];
    const drawn = floor(multiply(random.uniform([codes, candidates]), rows));
    const missed = subtract(z, gatherRows(stopGradient(codebook.table()), index));
    const error = sum(square(missed), { axes: 1, keepDims: true });
    const errors = reshape(gatherRows(error, cast(reshape(drawn, [-1]), "i32")), [codes, candidates]);
    return cast(reshape(gatherLast(drawn, reshape(argmax(errors), [codes, 1])), [codes]), "i32");
  }
}

/** How many codes a batch used, and the perplexity `exp(-Σ p ln p)` of their shares. */
export function usageOf(index: Tensor, codes: number): { codesUsed: Tensor; perplexity: Tensor } {
  const counts = reshape(scatterAddRows(ones([index.size, 1]), index, codes), [codes]);
  const share = divide(counts, index.size);
  const entropy = negate(sum(multiply(share, log(add(share, 1e-10)))));
  return { codesUsed: sum(greater(counts, 0)), perplexity: exp(entropy) };
}
