import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { ByteTokenizer } from "@trefoil/core";
import {
  functionReward,
  type PpoSettings,
  plainPpo,
  promptTexts,
  type RewardFunction,
  RewardSum,
  sft,
  type TrainingSettings,
  taskDemonstrations,
  taskPrompts,
} from "../../src/index.js";

/** A folder of the test's own, removed at the end. */
export async function temporaryFolder(): Promise<{ path: string } & AsyncDisposable> {
  const path = await mkdtemp(join(tmpdir(), "rlhf-"));
  return { path, [Symbol.asyncDispose]: () => rm(path, { recursive: true, force: true }) };
}

export const tokenizer = new ByteTokenizer();
export const prompts = taskPrompts(24, 8, 1);
export const texts = promptTexts(prompts.training);
export const sampler = { temperature: 1, maxNewTokens: 8, seed: 3 };

export const training = (steps: number, extra: Partial<TrainingSettings> = {}): TrainingSettings => ({
  steps,
  batch: 8,
  learningRate: 3e-3,
  warmupSteps: 2,
  weightDecay: 0,
  clipNorm: 1,
  maxLength: 16,
  seed: 1,
  checkpointEvery: 100,
  keepCheckpoints: 1,
  ...extra,
});

const sizes = { hiddenSize: 16, intermediateSize: 32, layers: 1, heads: 2, keyValueHeads: 1, maxPositions: 16 };

/** A policy that has learned to write letters and to stop. */
export async function trainSmallPolicy(folder: string, steps = 40): Promise<string> {
  const output = join(folder, "sft");
  const demonstrations = taskDemonstrations(prompts.training, 0.3, 1);
  await sft({
    from: { tokenizer, ...sizes },
    demonstrations,
    trainOnPrompts: false,
    settings: training(steps),
    output,
    run: join(folder, "sft-run"),
  });
  return output;
}

export const rewardOf = (name: string, score: RewardFunction): RewardSum =>
  new RewardSum([{ reward: functionReward(name, name, score), weight: 1 }]);

/** Multiples of 1/8, so that sums and differences of rewards are exact. */
export const letterReward = rewardOf("letters", (samples) =>
  samples.map(
    ({ promptText, responseText }) =>
      [...new Set(responseText)].filter((letter) => promptText.includes(letter)).length / 8,
  ),
);

export const ppoSettings = (extra: Partial<PpoSettings> = {}): PpoSettings => ({
  ...plainPpo,
  iterations: 4,
  promptsPerIteration: 8,
  epochs: 2,
  minibatch: 4,
  maxNewTokens: 8,
  learningRate: 1e-3,
  seed: 5,
  kl: { where: "reward", coefficient: 0.05 },
  critic: { kind: "separate", warmupIterations: 0, learningRate: 3e-3, coefficient: 1 },
  baseline: { kind: "none" },
  penalties: {},
  alarms: { enabled: false, grace: 0 },
  checkpointEvery: 2,
  keepCheckpoints: 3,
  ...extra,
});
