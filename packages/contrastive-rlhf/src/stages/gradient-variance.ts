import { compile, multiply, sum, type Tensor, valueAndGrad } from "@trefoil/core";
import { mean, rewardVariance, varianceRatio } from "../algorithm/index.js";
import { EpisodeEncoder, longestOf, type PromptText } from "../data/index.js";
import {
  OpenPolicy,
  perToken,
  type ResponseBatch,
  responseBatch,
  responseLogProbs,
  Sampler,
  statesRead,
} from "../models/index.js";
import type { SamplingOptions } from "./baselines.js";
import { rollOut } from "./ppo/rollout.js";
import type { RewardSum } from "./rewards.js";
import { BaselineStore } from "./store.js";

/** Random numbers of these rollouts: apart from those of baselines, iterations and evaluations. */
const gradientStream = 0x7ffffffe;

export interface GradientVarianceOptions {
  /** Folder of the SFT policy. */
  policy: string;
  rewards: RewardSum;
  /** One rollout of each; in the store. */
  prompts: readonly PromptText[];
  /** Baselines of the same policy and rewards. */
  store: string;
  /** Numbers of samples k to compare, each at most what the store has. */
  samples: readonly number[];
  sampler: SamplingOptions;
  /** Rollouts of one gradient; there must be two minibatches or more. */
  minibatch: number;
}

export interface GradientVariance {
  samples: number;
  /** Total variance of minibatch gradients with contrastive rewards over that with plain ones. */
  measured: number;
  /** (1 + 1/k) / (1 + ρ). */
  predicted: number;
}

/**
 * What contrast does to the noise of the policy gradient at the SFT policy: the trace of the covariance of minibatch gradients of
 * `mean (r - mean r) Σ_t log π`, without a critic, for contrastive rewards over plain ones.
 */
export async function measureGradientVariance(options: GradientVarianceOptions): Promise<GradientVariance[]> {
  const { rewards, sampler: settings, minibatch } = options;
  using policy = await OpenPolicy.open(options.policy);
  const { model } = policy;
  const encoder = new EpisodeEncoder(policy.tokenizer, policy.eosTokenIds, model.config.maxPositions);
  const prompts = encoder.prompts(options.prompts, settings.maxNewTokens);
  const longest = longestOf(prompts, ({ tokens }) => tokens.length);
  using sampler = new Sampler(model, minibatch, longest, settings.maxNewTokens);
  const rollouts = await rollOut(sampler, policy, prompts, 1, { ...settings, stream: gradientStream });
  const { total: scores } = await rewards.score(rollouts);
  const store = await BaselineStore.load(options.store);
  const most = Math.max(...options.samples);
  const references = prompts.map((prompt) => store.samples(rewards.promptKey(prompt), most).rewards);
  const { rho } = rewardVariance(references);

  const parameters = model.parameters();
  const gradient = compile((batch: ResponseBatch, weights: Tensor) => {
    const { grads } = valueAndGrad(() => {
      const { logProbs } = responseLogProbs(model, batch, settings.temperature, statesRead(model, batch));
      return multiply(sum(multiply(logProbs, weights)), 1 / minibatch);
    }, parameters);
    return grads;
  });
  const spread = async (values: readonly number[]): Promise<number> => {
    const centre = mean(values);
    const count = Math.floor(rollouts.length / minibatch);
    let squares = 0;
    const total = parameters.map(({ size }) => new Float64Array(size));
    for (let batch = 0; batch < count; batch++) {
      const some = rollouts.slice(batch * minibatch, (batch + 1) * minibatch);
      const laid = responseBatch(some);
      const weights = some.map(({ response }, row) =>
        new Float32Array(response.length).fill(values[batch * minibatch + row]! - centre),
      );
      const grads = await gradient(laid, perToken(laid, weights));
      for (const [i, grad] of grads.entries()) {
        const data = await grad.data();
        const into = total[i]!;
        data.forEach((value, at) => {
          squares += value * value;
          into[at]! += value;
        });
      }
    }
    const ofMean = total.reduce((all, part) => all + part.reduce((own, value) => own + value * value, 0), 0) / count;
    return (squares - ofMean) / (count - 1);
  };
  const plain = await spread(scores);
  const measured: GradientVariance[] = [];
  for (const samples of options.samples) {
    const contrast = scores.map((score, i) => score - mean(references[i]!.slice(0, samples)));
    measured.push({ samples, measured: (await spread(contrast)) / plain, predicted: varianceRatio(rho, samples) });
  }
  return measured;
}
