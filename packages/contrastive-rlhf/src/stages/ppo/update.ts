import {
  type AdamW,
  add,
  compile,
  multiply,
  type Parameter,
  type Tensor,
  tensor,
  valueAndGrad,
  zeros,
} from "@trefoil/core";
import { entropy, klLoss, maskedMean, policyLoss, valueLoss } from "../../algorithm/index.js";
import {
  type Episode,
  type OpenPolicy,
  perEpisode,
  perToken,
  type ResponseBatch,
  responseBatch,
  responseLogProbs,
  type ScoreModel,
  statesRead,
} from "../../models/index.js";
import { makeOptimizer } from "../optimizer.js";
import type { PpoSettings } from "./options.js";

/** The critic: a network of its own, or a head on the policy's hidden states. */
export type Critic = { kind: "none" } | { kind: "separate" | "shared"; model: ScoreModel };

/** What rollouts look like to the models before the first update: one array of length T per rollout. */
export interface Measured {
  logProbs: Float32Array[];
  referenceLogProbs: Float32Array[];
  entropies: Float32Array[];
  values: Float32Array[];
}

/** Targets of the update, per response token. */
export interface Targets {
  logProbs: Float32Array;
  referenceLogProbs: Float32Array;
  advantages: Float32Array;
  values: Float32Array;
  returns: Float32Array;
  /** Whether the response counts in the loss. */
  counts: boolean;
}

export interface UpdateMetrics {
  policyLoss: number;
  valueLoss: number;
  clipFraction: number;
  valueClipFraction: number;
  approxKl1: number;
  approxKl2: number;
  approxKl3: number;
  ratioMean: number;
  ratioMax: number;
  ratioDeviation: number;
  policyGradientNorm: number;
  valueGradientNorm: number;
  policyLearningRate: number;
  valueLearningRate: number;
}

/** What no gradient goes through needs less than half of an update's memory for as many rollouts, and is faster with more rows. */
const measuredMinibatches = 2;

/** The compiled programs of PPO: measuring rollouts under policy, reference and critic, and one update. */
export class PpoPrograms {
  readonly policyOptimizer: AdamW;
  readonly valueOptimizer: AdamW | undefined;
  readonly #policy: OpenPolicy;
  readonly #reference: OpenPolicy;
  readonly #critic: Critic;
  readonly #settings: PpoSettings;

  constructor(policy: OpenPolicy, reference: OpenPolicy, critic: Critic, settings: PpoSettings) {
    this.#policy = policy;
    this.#reference = reference;
    this.#critic = critic;
    this.#settings = settings;
    const { iterations, epochs, minibatch, promptsPerIteration, samplesPerPrompt, learningRate, clipNorm } = settings;
    const perIteration = (epochs * promptsPerIteration * samplesPerPrompt) / minibatch;
    const warmup = critic.kind === "none" ? 0 : settings.critic.warmupIterations;
    const common = { warmupSteps: 0, weightDecay: 0, clipNorm };
    this.policyOptimizer = makeOptimizer(
      this.#policyParameters(),
      { learningRate, ...common },
      (iterations - warmup) * perIteration,
    );
    if (critic.kind !== "none") {
      const rate = { learningRate: settings.critic.learningRate, ...common };
      this.valueOptimizer = makeOptimizer(this.#valueParameters(), rate, iterations * perIteration);
    }
  }

  #policyParameters(): Parameter[] {
    return this.#policy.model.parameters();
  }

  /** A shared critic is its head alone: the trunk is trained as the policy's. */
  #valueParameters(): Parameter[] {
    if (this.#critic.kind === "none") return [];
    return this.#critic.kind === "shared" ? [this.#critic.model.score.weight] : this.#critic.model.parameters();
  }

  readonly #measurePolicy = compile((batch: ResponseBatch) => {
    const states = statesRead(this.#policy.model, batch);
    const { logProbs, all } = responseLogProbs(this.#policy.model, batch, this.#settings.temperature, states);
    return { logProbs, entropy: entropy(all), values: this.#values(batch, states) };
  });

  readonly #measureReference = compile((batch: ResponseBatch) => {
    const { model } = this.#reference;
    return responseLogProbs(model, batch, this.#settings.temperature, statesRead(model, batch)).logProbs;
  });

  /** @param states of the policy, [n, hidden] */
  #values(batch: ResponseBatch, states: Tensor): Tensor | undefined {
    if (this.#critic.kind === "none") return undefined;
    const { model } = this.#critic;
    return this.#critic.kind === "shared" ? model.head(states) : model.scores(batch);
  }

  /** Log-probabilities, entropies and values of rollouts, some at a time. */
  async measure(episodes: readonly Episode[]): Promise<Measured> {
    const together = measuredMinibatches * this.#settings.minibatch;
    const measured: Measured = { logProbs: [], referenceLogProbs: [], entropies: [], values: [] };
    for (let from = 0; from < episodes.length; from += together) {
      const some = episodes.slice(from, from + together);
      const batch = responseBatch(some);
      const [own, reference] = await Promise.all([this.#measurePolicy(batch), this.#measureReference(batch)]);
      const take = async (source: Tensor | undefined, into: Float32Array[]) => {
        const data = source ? ((await source.data()) as Float32Array) : new Float32Array(batch.targets.size);
        into.push(...perEpisode(data, some));
      };
      await take(own.logProbs, measured.logProbs);
      await take(own.entropy, measured.entropies);
      await take(own.values, measured.values);
      await take(reference, measured.referenceLogProbs);
    }
    return measured;
  }

  readonly #step = compile((batch: ResponseBatch, old: OldTensors, klCoefficient: Tensor, trainPolicy: boolean) => {
    const { mask } = old;
    const { clip, dualClip, entropyCoefficient, kl, critic } = this.#settings;
    const policyParameters = trainPolicy ? this.#policyParameters() : [];
    const valueParameters = this.#valueParameters();
    const { value, grads } = valueAndGrad(() => {
      const states = statesRead(this.#policy.model, batch);
      const { logProbs, all } = responseLogProbs(this.#policy.model, batch, this.#settings.temperature, states);
      const policy = policyLoss(
        { logProbs, oldLogProbs: old.logProbs, advantages: old.advantages, mask },
        { clip, ...(dualClip !== undefined && { dualClip }) },
      );
      let loss = policy.loss;
      if (entropyCoefficient !== 0) loss = add(loss, multiply(maskedMean(entropy(all), mask), -entropyCoefficient));
      if (kl.where !== "reward") {
        const penalty = klLoss(logProbs, old.referenceLogProbs, mask, kl.where === "loss-k2" ? "k2" : "k3");
        loss = add(loss, multiply(penalty, klCoefficient));
      }
      const values = this.#values(batch, states);
      if (!values) return { loss, policy };
      const fit = valueLoss({ values, oldValues: old.values, returns: old.returns, mask }, critic.clip);
      const weighted = multiply(fit.loss, critic.coefficient);
      return { loss: trainPolicy ? add(loss, weighted) : weighted, policy, value: fit };
    }, [...policyParameters, ...valueParameters]);
    const ofPolicy = trainPolicy ? this.policyOptimizer.apply(grads.slice(0, policyParameters.length)) : undefined;
    const ofValue = this.valueOptimizer?.apply(grads.slice(policyParameters.length));
    const { policy } = value;
    const zero = multiply(policy.loss, 0);
    return {
      policyLoss: policy.loss,
      valueLoss: value.value?.loss ?? zero,
      clipFraction: policy.clipFraction,
      valueClipFraction: value.value?.clipFraction ?? zero,
      approxKl1: policy.approxKl1,
      approxKl2: policy.approxKl2,
      approxKl3: policy.approxKl3,
      ratioMean: policy.ratioMean,
      ratioMax: policy.ratioMax,
      ratioDeviation: policy.ratioDeviation,
      policyGradientNorm: ofPolicy?.gradientNorm ?? zero,
      valueGradientNorm: ofValue?.gradientNorm ?? zero,
      policyLearningRate: ofPolicy?.learningRate ?? zero,
      valueLearningRate: ofValue?.learningRate ?? zero,
    } satisfies Record<keyof UpdateMetrics, Tensor>;
  });

  /** @throws OutOfMemoryError when an update takes more memory than there is for the longest responses to the longest prompts */
  requireMemory(prompts: readonly Int32Array[]): void {
    const { minibatch, maxNewTokens } = this.#settings;
    const longest = [...prompts].sort((a, b) => b.length - a.length);
    const response = new Int32Array(maxNewTokens);
    const episodes = Array.from({ length: minibatch }, (_, i) => ({ prompt: longest[i % longest.length]!, response }));
    const batch = responseBatch(episodes);
    const empty = () => zeros([batch.targets.size]);
    const [logProbs, referenceLogProbs, advantages, values] = [empty(), empty(), empty(), empty()];
    const old = { logProbs, referenceLogProbs, advantages, values, returns: empty(), mask: empty() };
    this.#step.memory(batch, old, zeros([]), true);
  }

  /** One update on a minibatch. */
  async update(
    episodes: readonly Episode[],
    targets: readonly Targets[],
    klCoefficient: number,
    trainPolicy: boolean,
  ): Promise<UpdateMetrics> {
    const batch = responseBatch(episodes);
    const lay = (of: (target: Targets) => Float32Array) => perToken(batch, targets.map(of));
    const old: OldTensors = {
      logProbs: lay((target) => target.logProbs),
      referenceLogProbs: lay((target) => target.referenceLogProbs),
      advantages: lay((target) => target.advantages),
      values: lay((target) => target.values),
      returns: lay((target) => target.returns),
      mask: lay((target) => new Float32Array(target.logProbs.length).fill(target.counts ? 1 : 0)),
    };
    const result = await this.#step(batch, old, tensor(Float32Array.of(klCoefficient), { shape: [] }), trainPolicy);
    const entries = Object.entries<Tensor>(result).map(async ([name, value]) => [name, await value.item()] as const);
    return Object.fromEntries(await Promise.all(entries)) as unknown as UpdateMetrics;
  }
}

type OldTensors = {
  logProbs: Tensor;
  referenceLogProbs: Tensor;
  advantages: Tensor;
  values: Tensor;
  returns: Tensor;
  mask: Tensor;
};
