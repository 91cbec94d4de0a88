import { existsSync } from "node:fs";
import { join } from "node:path";
import { ByteTokenizer, defined, loadTokenizer, type StageContext } from "@trefoil/core";
import { mean, type PairedTest, pairedTest, type WinTieLose } from "../algorithm/index.js";
import { sampleBaselines } from "../stages/baselines.js";
import { winTieLoseByPrompt } from "../stages/evaluate.js";
import {
  type BaselineResult,
  type BaselineSettings,
  functionReward,
  loadModelReward,
  type PpoSettings,
  plainPpo,
  ppo,
  RewardSum,
  respond,
  type ScoredSample,
  sft,
  type TrainingSettings,
} from "../stages/index.js";
import { trainRewardModel } from "../stages/reward-model.js";
import {
  gold,
  pairsOf,
  promptNormal,
  promptTexts,
  taskDemonstrations,
  taskPreferences,
  taskPrompts,
  taskResponseTokens,
} from "../task/index.js";

export interface QuickstartSettings {
  seed: number;
  prompts: number;
  heldOutPrompts: number;
  /** Share of random letters in the demonstrations. */
  demonstrationNoise: number;
  sftSteps: number;
  /** Responses of the SFT policy per prompt that annotators compare, two by two. */
  comparedResponses: number;
  /** Share of flipped preference labels. */
  flips: number;
  rewardSteps: number;
  /** Offline samples per prompt. */
  samples: number;
  iterations: number;
  learningRate: number;
  /** Standard deviation of a random offset of each prompt's reward, which no model can learn. */
  offset: number;
}

export interface QuickstartOptions extends StageContext {
  directory: string;
  settings: QuickstartSettings;
}

/** One row of the comparison: a policy on prompts that none was trained on. */
export interface QuickstartArm {
  name: string;
  /** Mean true quality and mean reward. */
  gold: number;
  reward: number;
  meanLength: number;
  /** Against the SFT policy, by true quality. */
  againstSft?: WinTieLose;
  responses: ScoredSample[];
}

export interface QuickstartResult {
  arms: QuickstartArm[];
  baselines: BaselineResult;
  rewardAccuracy: number | undefined;
  /** Contrast against plain PPO, by true quality. */
  contrastAgainstPlain: WinTieLose;
  /** Differences of each prompt's mean true quality. */
  difference: PairedTest | undefined;
  /** Run directories of both PPO runs. */
  runs: Record<string, string>;
}

/** Responses of each policy to each held-out prompt. */
const evaluationSamples = 2;
const batch = 128;

/**
 * The whole method on the built-in task: SFT, a reward model from noisy preferences, offline baselines, PPO with and without contrast, and
 * what each is worth by the true quality, which no training step sees. Stages that are complete are kept; undefined when stopped.
 */
export async function quickstart(options: QuickstartOptions): Promise<QuickstartResult | undefined> {
  const { directory, settings, progress, signal } = options;
  const { seed } = settings;
  const path = (name: string) => join(directory, name);
  const training = (steps: number, learningRate: number): TrainingSettings => ({
    steps,
    batch: 64,
    learningRate,
    warmupSteps: 20,
    weightDecay: 0,
    clipNorm: 1,
    maxLength: 16,
    seed,
    checkpointEvery: 200,
    keepCheckpoints: 1,
  });
  /** Runs a training stage unless its output is there; returns whether the quickstart goes on. */
  const stage = async (
    name: string,
    train: (where: { output: string; run: string; resume: true }) => Promise<boolean>,
  ): Promise<boolean> =>
    existsSync(path(name)) || (await train({ output: path(name), run: path(`${name}-run`), resume: true }));
  const context = defined({ progress, signal });

  const { training: prompts, heldOut } = taskPrompts(settings.prompts, settings.heldOutPrompts, seed);
  const sampler = { temperature: 1, maxNewTokens: taskResponseTokens, seed };
  const texts = promptTexts(prompts);

  const sizes = { hiddenSize: 64, intermediateSize: 128, layers: 2, heads: 4, keyValueHeads: 4, maxPositions: 16 };
  const demonstrations = taskDemonstrations(
    [...prompts, ...prompts, ...prompts, ...prompts],
    settings.demonstrationNoise,
    seed,
  );
  const from = { tokenizer: new ByteTokenizer(), ...sizes };
  if (
    !(await stage("sft", (where) =>
      sft({
        from,
        demonstrations,
        trainOnPrompts: false,
        settings: training(settings.sftSteps, 3e-3),
        ...where,
        ...context,
      }),
    ))
  ) {
    return undefined;
  }

  let rewardAccuracy: number | undefined;
  const trainedReward = await stage("reward", async (where) => {
    const compared = await respond(path("sft"), {
      prompts: texts,
      samples: settings.comparedResponses,
      sampler: { ...sampler, seed: seed + 1 },
      batch,
      ...defined({ signal }),
    });
    const preferences = taskPreferences(pairsOf(compared), 6, settings.flips, seed);
    const options = {
      from: path("sft"),
      preferences,
      heldOut: 0.1,
      centre: 0,
      normalise: "mean" as const,
      settings: training(settings.rewardSteps, 1e-3),
    };
    const result = await trainRewardModel({ ...options, ...where, ...context });
    rewardAccuracy = result.heldOut?.accuracy;
    return result.completed;
  });
  if (!trainedReward) return undefined;

  const tokenizer = await loadTokenizer(path("sft"));
  const rewardModel = await loadModelReward(path("reward"), tokenizer, batch);
  const offsets = functionReward("offset", `offset ${settings.offset} ${seed}`, (samples) =>
    samples.map(({ promptText }) => settings.offset * promptNormal(promptText, seed)),
  );
  using rewards = new RewardSum([
    { reward: rewardModel, weight: 1 },
    ...(settings.offset > 0 ? [{ reward: offsets, weight: 1 }] : []),
  ]);
  const baselines = await sampleBaselines({
    policy: path("sft"),
    rewards,
    prompts: texts,
    samples: settings.samples,
    sampler,
    batch,
    store: path("baselines"),
    ...context,
  });
  if (!baselines.completed) return undefined;

  const arms: [name: string, folder: string, baseline: BaselineSettings][] = [
    ["PPO", "ppo", { kind: "none" }],
    [
      `PPO + contrast, k = ${settings.samples}`,
      "ppo-contrast",
      { kind: "offline", store: path("baselines"), samples: settings.samples, aggregation: { kind: "mean" } },
    ],
  ];
  for (const [name, folder, baseline] of arms) {
    const run = (where: { output: string; run: string; resume: true }) =>
      ppo({
        policy: path("sft"),
        rewards,
        prompts: texts,
        settings: ppoSettings(settings, baseline),
        gold: goldOf,
        ...where,
        ...context,
      });
    if (!(await stage(folder, run))) return undefined;
    progress?.log(`${name} is done.`);
  }

  const evaluate = async (name: string, folder: string): Promise<QuickstartArm> => {
    const responses = await respond(path(folder), {
      prompts: promptTexts(heldOut),
      samples: evaluationSamples,
      sampler,
      batch,
      ...defined({ signal }),
    });
    const { total } = await rewards.score(responses);
    return {
      name,
      gold: mean(goldOf(responses)),
      reward: mean(total),
      meanLength: mean(responses.map(({ response }) => response.length)),
      responses,
    };
  };
  const start = await evaluate("SFT", "sft");
  const evaluated = [start];
  for (const [name, folder] of arms) {
    const arm = await evaluate(name, folder);
    evaluated.push({
      ...arm,
      againstSft: winTieLoseByPrompt(goldOf(arm.responses), goldOf(start.responses), evaluationSamples),
    });
  }
  const [plain, contrast] = [goldOf(evaluated[1]!.responses), goldOf(evaluated[2]!.responses)];
  const differences = heldOut.map(
    (_, i) =>
      mean(contrast.slice(2 * i, 2 * i + evaluationSamples)) - mean(plain.slice(2 * i, 2 * i + evaluationSamples)),
  );
  return {
    arms: evaluated,
    baselines,
    rewardAccuracy,
    contrastAgainstPlain: winTieLoseByPrompt(contrast, plain, evaluationSamples),
    difference: differences.some((value) => value !== differences[0]) ? pairedTest(differences) : undefined,
    runs: Object.fromEntries(arms.map(([name, folder]) => [name, path(`${folder}-run`)])),
  };
}

const goldOf = (samples: readonly Pick<ScoredSample, "promptText" | "responseText" | "ended">[]): number[] =>
  samples.map(({ promptText, responseText, ended }) => gold(promptText, responseText, ended));

function ppoSettings({ iterations, learningRate, seed }: QuickstartSettings, baseline: BaselineSettings): PpoSettings {
  return {
    ...plainPpo,
    iterations,
    promptsPerIteration: 64,
    minibatch: 32,
    maxNewTokens: taskResponseTokens,
    learningRate,
    seed,
    kl: { where: "reward", coefficient: 0.15 },
    critic: { kind: "separate", warmupIterations: 0, learningRate: 3 * learningRate, coefficient: 1 },
    baseline,
    // Hardly any SFT response is cut off: the reward model cannot know what to think of those that PPO finds.
    penalties: { unended: { kind: "subtract", value: 1 } },
    // A few thousand letters: single ratios leave the range that means trouble at scale. Only broken numbers stop it.
    alarms: { enabled: true, grace: iterations },
    checkpointEvery: 50,
    keepCheckpoints: 1,
  };
}
