import { mean, standardDeviation } from "./aggregate.js";
import { RunningMoments } from "./moments.js";

/** What is made of a score and its baseline. */
export type Shaper =
  /** `score - baseline`: the contrastive reward of arXiv 2403.07708. */
  | { kind: "identity" }
  /** Mean of `σ(score - reference)`: PAR, arXiv 2502.18770. */
  | { kind: "sigmoid" }
  /** `log σ(score - q)`, q the 85th percentile of a normal fitted to the references: LSC, arXiv 2402.00742. */
  | { kind: "log-sigmoid" }
  /** The difference, limited to ±limit. */
  | { kind: "clip"; limit: number }
  /** The difference divided by its running standard deviation. */
  | { kind: "running-scale" }
  /** The difference times running std of scores over its own: keeps the KL coefficient comparable between arms. */
  | { kind: "match-std" };

/** A score with what it is compared to. */
export interface Compared {
  /** Raw reward after penalties. */
  score: number;
  /** Subtracted; 0 without a provider. */
  baseline: number;
  /** The scores that the baseline was made of; empty where there is only the baseline. */
  references: readonly number[];
  /** Multiplies the difference; 1 but for group-relative rewards. */
  scale: number;
}

/** Φ⁻¹(0.85) */
const normalQuantile85 = 1.0364333894937896;

const sigmoid = (z: number): number => 1 / (1 + Math.exp(-z));
/** log σ(z), stable for large |z|. */
const logSigmoid = (z: number): number => Math.min(z, 0) - Math.log1p(Math.exp(-Math.abs(z)));

/** Order: reward, penalties, baseline, shaper, clip. This is the part from the baseline on; running moments are its state. */
export class RewardShaper {
  readonly #shaper: Shaper;
  readonly #clip: number;
  readonly #scores = new RunningMoments();
  readonly #differences = new RunningMoments();

  /** @param clip final rewards are limited to ±clip: after the subtraction, which clipping before it would spoil */
  constructor(shaper: Shaper = { kind: "identity" }, clip = Number.POSITIVE_INFINITY) {
    this.#shaper = shaper;
    this.#clip = clip;
  }

  /** The rewards of a batch. Running moments take the batch in first. */
  shape(batch: readonly Compared[]): number[] {
    const differences = batch.map(({ score, baseline, scale }) => (score - baseline) * scale);
    this.#scores.add(batch.map(({ score }) => score));
    this.#differences.add(differences);
    return batch.map((each, i) => Math.max(-this.#clip, Math.min(this.#clip, this.#one(each, differences[i]!))));
  }

  #one({ score, baseline, references }: Compared, difference: number): number {
    const compared = references.length > 0 ? references : [baseline];
    switch (this.#shaper.kind) {
      case "identity":
        return difference;
      case "sigmoid":
        return mean(compared.map((reference) => sigmoid(score - reference)));
      case "log-sigmoid":
        return logSigmoid(score - (mean(compared) + normalQuantile85 * standardDeviation(compared)));
      case "clip":
        return Math.max(-this.#shaper.limit, Math.min(this.#shaper.limit, difference));
      case "running-scale":
        return difference / this.#differences.standardDeviation;
      case "match-std":
        return (difference * this.#scores.standardDeviation) / this.#differences.standardDeviation;
    }
  }

  state() {
    return { scores: this.#scores.state(), differences: this.#differences.state() };
  }

  restore(state: ReturnType<RewardShaper["state"]>): void {
    this.#scores.restore(state.scores);
    this.#differences.restore(state.differences);
  }
}
