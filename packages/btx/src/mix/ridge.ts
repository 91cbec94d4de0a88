import { MixError } from "./errors.js";

export interface RidgeOptions {
  /** λ as a share of the mean of BᵀB's diagonal, so that it means the same for any number of tokens. */
  lambda?: number;
  /** Factor on the solution: how far apart the logits of a token's own and other experts are. */
  sharpness?: number;
}

export const ridgeDefaults: Required<RidgeOptions> = { lambda: 1e-3, sharpness: 4 };

/**
 * Sums over router inputs of one layer from which the ridge router is solved. Tokens are labelled with the expert
 * trained on their domain; memory is [hidden, hidden], whatever the number of tokens.
 */
export class RidgeMoments {
  /** BᵀB, [hidden, hidden]. */
  readonly gram: Float64Array;
  /** Σ of the inputs labelled with each expert, [experts, hidden]. */
  readonly sums: Float64Array;
  readonly counts: Float64Array;

  constructor(
    readonly hiddenSize: number,
    readonly experts: number,
  ) {
    this.gram = new Float64Array(hiddenSize * hiddenSize);
    this.sums = new Float64Array(experts * hiddenSize);
    this.counts = new Float64Array(experts);
  }

  /** Adds router inputs b, [tokens, hidden], of one domain. */
  add(inputs: Float32Array, expert: number): void {
    const d = this.hiddenSize;
    const gram = new Float64Array(d * d);
    const sum = new Float64Array(d);
    for (let row = 0; row < inputs.length; row += d) {
      for (let i = 0; i < d; i++) {
        const value = inputs[row + i]!;
        sum[i]! += value;
        for (let j = 0; j <= i; j++) gram[i * d + j]! += value * inputs[row + j]!;
      }
    }
    for (let i = 0; i < d; i++) for (let j = 0; j < i; j++) gram[j * d + i] = gram[i * d + j]!;
    this.addSums(gram, sum, inputs.length / d, expert);
  }

  /** Adds moments computed elsewhere: bᵀb [hidden, hidden], Σ b [hidden] and the number of tokens. */
  addSums(gram: ArrayLike<number>, sum: ArrayLike<number>, tokens: number, expert: number): void {
    const { hiddenSize: d, experts } = this;
    if (gram.length !== d * d || sum.length !== d || !(expert >= 0 && expert < experts)) {
      throw new MixError(
        "MIX_OPTIONS",
        `moments of expert ${expert} have the sizes ${gram.length} and ${sum.length}, not ${d * d} and ${d}`,
      );
    }
    for (let k = 0; k < d * d; k++) this.gram[k]! += gram[k]!;
    for (let k = 0; k < d; k++) this.sums[expert * d + k]! += sum[k]!;
    this.counts[expert]! += tokens;
  }
}

/**
 * A router by ridge regression of the domain on the router's input: `W = s ((BᵀB + λI)⁻¹ BᵀY)ᵀ`, Y the one-hot label
 * minus its mean (after DUME, arXiv 2603.29765). An expert without tokens gets the row 0: it comes before experts of
 * other domains and after the token's own, as a generalist should.
 * @returns [experts, hidden]
 */
export function ridgeRouter(moments: RidgeMoments, options: RidgeOptions = {}): Float32Array {
  const { lambda = ridgeDefaults.lambda, sharpness = ridgeDefaults.sharpness } = options;
  const { hiddenSize: d, experts, gram, sums, counts } = moments;
  const tokens = counts.reduce((a, b) => a + b, 0);
  if (tokens === 0) throw new MixError("MIX_OPTIONS", "the ridge router needs router inputs: none were added");
  let trace = 0;
  for (let i = 0; i < d; i++) trace += gram[i * d + i]!;
  const regularized = gram.slice();
  for (let i = 0; i < d; i++) regularized[i * d + i]! += lambda * (trace / d);
  const factor = choleskyFactor(regularized, d);
  const all = new Float64Array(d);
  for (let e = 0; e < experts; e++) for (let k = 0; k < d; k++) all[k]! += sums[e * d + k]!;
  const rows = new Float32Array(experts * d);
  for (let e = 0; e < experts; e++) {
    // Row e of BᵀY: Σ over its tokens, minus its share of all tokens.
    const share = counts[e]! / tokens;
    const right = Float64Array.from({ length: d }, (_, k) => sums[e * d + k]! - share * all[k]!);
    rows.set(
      solveFactored(factor, right, d).map((value) => value * sharpness),
      e * d,
    );
  }
  return rows;
}

/** Lower triangle L with A = L Lᵀ, in double precision. */
function choleskyFactor(matrix: Float64Array, n: number): Float64Array {
  const factor = new Float64Array(n * n);
  for (let i = 0; i < n; i++) {
    for (let j = 0; j <= i; j++) {
      let sum = matrix[i * n + j]!;
      for (let k = 0; k < j; k++) sum -= factor[i * n + k]! * factor[j * n + k]!;
      if (i !== j) factor[i * n + j] = sum / factor[j * n + j]!;
      else if (sum > 0) factor[i * n + i] = Math.sqrt(sum);
      else throw new MixError("MIX_OPTIONS", "the router's inputs do not span their space: raise lambda above 0");
    }
  }
  return factor;
}

/** x with L Lᵀ x = b. */
function solveFactored(factor: Float64Array, right: Float64Array, n: number): Float64Array {
  const x = right.slice();
  for (let i = 0; i < n; i++) {
    for (let k = 0; k < i; k++) x[i]! -= factor[i * n + k]! * x[k]!;
    x[i]! /= factor[i * n + i]!;
  }
  for (let i = n - 1; i >= 0; i--) {
    for (let k = i + 1; k < n; k++) x[i]! -= factor[k * n + i]! * x[k]!;
    x[i]! /= factor[i * n + i]!;
  }
  return x;
}
