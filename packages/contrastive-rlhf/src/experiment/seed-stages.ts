import { existsSync } from "node:fs";
import { rm } from "node:fs/promises";
import { join } from "node:path";
import { defined, loadTokenizer, RUN_LAYOUT, readMetricsFile, type StageContext } from "@trefoil/core";
import { mean } from "../algorithm/index.js";
import type { PreferenceText } from "../data/index.js";
import { hashModelFolder } from "../models/index.js";
import { sampleBaselines } from "../stages/baselines.js";
import {
  dpo,
  type GradientVariance,
  loadModelReward,
  measureGradientVariance,
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
  preferenceOf,
  promptTexts,
  taskDemonstrations,
  taskPreferences,
  taskPrompts,
  taskResponseTokens,
  taskTokenizer,
} from "../task/index.js";
import { cellGold, syntheticReward } from "./cell-rewards.js";
import {
  type Arm,
  armName,
  type Cell,
  cellName,
  type ExperimentSettings,
  type ModelSize,
  type TunedSettings,
} from "./plan.js";
import type { ResultRow } from "./results.js";

/** Responses that are sampled or scored at a time. */
const batch = 512;
/** Responses of every policy to each held-out prompt, and of SFT for its offline reward. */
const evaluationSamples = 2;
const offlineSamples = 8;
/** SFT responses to each prompt that annotators compare, two by two: with 8 reward models order only 7 pairs in 10 as true quality does. */
const comparedResponses = 64;
/** Sharpness of annotators: P(prefer) = σ(6 × difference in quality), before flips. */
const sharpness = 6;
/** Rollouts of an iteration, and of a minibatch. */
const rollouts = 64;
const minibatch = 32;
const rolloutsPerPrompt = 4;
/** Off learned rewards without an end: one SFT response in 300 is cut off, too few for a reward model to judge those that PPO finds. */
const unendedPenalty = 1;
/** Iterations that are averaged to one point of the frontier. */
const frontierWindow = 10;

const sizesOf: Record<ModelSize, { hiddenSize: number; intermediateSize: number; layers: number; heads: number }> = {
  small: { hiddenSize: 32, intermediateSize: 64, layers: 1, heads: 2 },
  showcase: { hiddenSize: 128, intermediateSize: 448, layers: 4, heads: 4 },
};
/** Of reward models for policies of either size. Deeper and wider ones took longer to find what matters. */
const rewardSize = sizesOf.small;
/** Learning rates of the showcase, over those of the small policy. */
const rateOf: Record<ModelSize, number> = { small: 1, showcase: 0.3 };

/** What a cell gives to its arms. */
export interface PreparedCell extends Disposable {
  /** Undefined when stopped. @param tuned the experiment's, unless given */
  run(arm: Arm, tuned?: TunedSettings): Promise<ResultRow | undefined>;
}

/** What the arms of a cell have in common. */
interface CellContext {
  policy: string;
  prompts: readonly string[];
  rewards: RewardSum;
  preferences: readonly PreferenceText[];
  accuracy?: number | undefined;
}

/** What one seed and model size share between cells and arms, in a folder. */
export class SeedStages {
  readonly #folder: string;
  readonly #seed: number;
  readonly #model: ModelSize;
  readonly #settings: ExperimentSettings;
  readonly #context: StageContext;
  readonly #prompts: ReturnType<typeof taskPrompts>;
  #compared: Promise<ScoredSample[]> | undefined;

  constructor(folder: string, seed: number, model: ModelSize, settings: ExperimentSettings, context: StageContext) {
    this.#folder = folder;
    this.#seed = seed;
    this.#model = model;
    this.#settings = settings;
    this.#context = defined({ signal: context.signal });
    this.#prompts = taskPrompts(settings.prompts, settings.heldOutPrompts, seed);
  }

  #path(...parts: string[]): string {
    return join(this.#folder, ...parts);
  }

  #training(steps: number, learningRate: number): TrainingSettings {
    const rest = { warmupSteps: 20, weightDecay: 0, clipNorm: 1, maxLength: 16 };
    const checkpoints = { checkpointEvery: steps, keepCheckpoints: 1 };
    return {
      steps,
      batch: 64,
      learningRate,
      seed: this.#seed,
      ...rest,
      ...checkpoints,
    };
  }

  get #sampler() {
    return { temperature: 1, maxNewTokens: taskResponseTokens, seed: this.#seed };
  }

  async #clear(name: string): Promise<void> {
    await rm(this.#path(name), { recursive: true, force: true });
  }

  /** Trains into a folder unless it is there. */
  async #stage(name: string, train: (where: { output: string; run: string }) => Promise<unknown>): Promise<string> {
    const output = this.#path(name);
    if (!existsSync(output)) {
      await this.#clear(`${name}-run`);
      await train({ output, run: `${output}-run` });
    }
    return output;
  }

  async #policy(): Promise<string> {
    return await this.#finetuned("sft", sizesOf[this.#model], 3e-3 * rateOf[this.#model]);
  }

  /** What reward models start from. */
  async #rewardTrunk(policy: string): Promise<string> {
    return this.#model === "small" ? policy : await this.#finetuned("reward-trunk", rewardSize, 3e-3);
  }

  async #finetuned(name: string, { heads, ...sizes }: (typeof sizesOf)[ModelSize], rate: number): Promise<string> {
    const { training } = this.#prompts;
    const from = { tokenizer: taskTokenizer(), ...sizes, heads, keyValueHeads: heads, maxPositions: 16 };
    const demonstrations = taskDemonstrations([...training, ...training, ...training, ...training], 0.4, this.#seed);
    const settings = this.#training(this.#settings.sftSteps, rate);
    return await this.#stage(name, (where) =>
      sft({ from, demonstrations, trainOnPrompts: false, settings, ...where, ...this.#context }),
    );
  }

  /** SFT responses that annotators compare: the same in all cells. */
  #comparedBy(policy: string): Promise<ScoredSample[]> {
    const sampler = { ...this.#sampler, seed: this.#seed + 100_000 };
    const prompts = promptTexts(this.#prompts.training);
    this.#compared ??= respond(policy, { prompts, samples: comparedResponses, sampler, batch });
    return this.#compared;
  }

  async prepare(cell: Cell): Promise<PreparedCell> {
    const policy = await this.#policy();
    const all = this.#prompts.training;
    const prompts = cell.kind === "offset" ? all.slice(0, cell.prompts) : all;
    const { rewards, preferences, accuracy } = await this.#rewardsOf(cell, policy);
    return {
      run: async (arm, tuned = this.#settings.tuned) =>
        await this.#arm(cell, arm, tuned, { policy, prompts, rewards, preferences, accuracy }),
      [Symbol.dispose]: () => rewards[Symbol.dispose](),
    };
  }

  async #rewardsOf(cell: Cell, policy: string) {
    const compared = await this.#comparedBy(policy);
    if (cell.kind === "binary") {
      const reward = syntheticReward(cell, this.#seed);
      const scores = await reward.score(compared);
      return { rewards: new RewardSum([{ reward, weight: 1 }]), preferences: byReward(compared, scores) };
    }
    const rate = cell.kind === "flips" ? cell.rate : 0;
    const preferences = taskPreferences(pairsOf(compared), sharpness, rate, this.#seed);
    if (cell.kind === "offset")
      return { rewards: new RewardSum([{ reward: syntheticReward(cell, this.#seed), weight: 1 }]), preferences };
    // Flipped labels make gradients noisy: twice the pairs of DPO's batches.
    const settings = { ...this.#training(this.#settings.rewardSteps, 3e-3), batch: 128 };
    const from = await this.#rewardTrunk(policy);
    const options = { from, preferences, heldOut: 0.1, centre: 0, normalise: "mean" as const, settings };
    const path = await this.#stage(`reward-${rate}`, (where) =>
      trainRewardModel({ ...options, ...where, ...this.#context }),
    );
    const reward = await loadModelReward(path, await loadTokenizer(policy), batch);
    const rewards = new RewardSum([{ reward, weight: 1 }]);
    return { rewards, preferences, accuracy: await this.#accuracy(policy, rewards) };
  }

  /** How often a reward puts the better of two held-out SFT responses first, by true quality. */
  async #accuracy(policy: string, rewards: RewardSum): Promise<number> {
    const sampler = { ...this.#sampler, seed: this.#seed + 200_000 };
    const texts = promptTexts(this.#prompts.heldOut);
    const responses = await respond(policy, { prompts: texts, samples: 2, sampler, batch });
    const { total } = await rewards.score(responses);
    const golds = responses.map(({ promptText, responseText, ended }) => gold(promptText, responseText, ended));
    const outcomes = texts.flatMap((_, i) => {
      const quality = golds[2 * i]! - golds[2 * i + 1]!;
      return quality === 0 ? [] : [Number(Math.sign(total[2 * i]! - total[2 * i + 1]!) === Math.sign(quality))];
    });
    return mean(outcomes);
  }

  /** Samples of the SFT policy are the same for all rewards of a seed: drawn once, scored for each. */
  async #baselines(cell: Cell, policy: string, rewards: RewardSum, prompts: readonly string[], samples: number) {
    const name = `baselines-${cellName(cell).replaceAll(/[^\w.]+/g, "-")}`;
    const shared = this.#path("samples");
    const common = { policy, prompts: promptTexts(prompts), sampler: this.#sampler, batch, ...this.#context };
    const first = await sampleBaselines({
      ...common,
      prompts: promptTexts(this.#prompts.training),
      samples: Math.max(...this.#settings.samples),
      rewards: new RewardSum([
        { reward: syntheticReward({ kind: "offset", sigma: 0, prompts: 0, model: cell.model }, this.#seed), weight: 1 },
      ]),
      store: shared,
    });
    if (!first.completed) return undefined;
    const store = this.#path(name);
    const made = await sampleBaselines({ ...common, samples, rewards, store, responsesFrom: shared });
    return made.completed ? { store, rho: made.rho } : undefined;
  }

  async #arm(cell: Cell, arm: Arm, tuned: TunedSettings, shared: CellContext): Promise<ResultRow | undefined> {
    const { policy, prompts, rewards, preferences } = shared;
    const { heldOut } = this.#prompts;
    const startedAt = process.cpuUsage();
    let [output, rho, scored] = [policy, undefined as number | undefined, 0];
    let frontier: ResultRow["frontier"];
    let failure: string | undefined;
    await this.#clear("arm");
    await this.#clear("arm-run");
    try {
      if (arm.kind === "dpo") {
        output = await this.#dpo(cell, policy, preferences);
        if (this.#context.signal?.aborted) return undefined;
      } else if (arm.kind !== "sft") {
        const where = { output: this.#path("arm"), run: this.#path("arm-run"), ...this.#context };
        let baseline: PpoSettings["baseline"] =
          arm.kind === "leave-one-out" ? { kind: "leave-one-out" } : { kind: "none" };
        if (arm.kind === "contrast") {
          const made = await this.#baselines(cell, policy, rewards, prompts, arm.samples);
          if (!made) return undefined;
          rho = Number.isFinite(made.rho) ? made.rho : undefined;
          scored = arm.samples * prompts.length;
          baseline = { kind: "offline", store: made.store, samples: arm.samples, aggregation: { kind: "mean" } };
        }
        const settings = this.#ppoSettings(cell, tuned, baseline, arm.kind === "leave-one-out" && arm.budget);
        scored += settings.iterations * settings.promptsPerIteration * settings.samplesPerPrompt;
        const judged = (samples: readonly Pick<ScoredSample, "promptText" | "responseText" | "ended">[]) =>
          samples.map((sample) => cellGold(cell, sample));
        const options = { policy, rewards, prompts: promptTexts(prompts), settings, gold: judged };
        if (!(await ppo({ ...options, ...where }))) return undefined;
        ({ output } = where);
        frontier = await frontierOf(where.run);
      }
    } catch (error) {
      // A run that breaks counts as one that learned nothing, and is reported.
      failure = error instanceof Error ? error.message : String(error);
      output = policy;
    }
    const seconds = cpuSeconds(startedAt);
    const sampling = { prompts: promptTexts(heldOut), sampler: this.#sampler, batch };
    const responses = await respond(output, { ...sampling, samples: evaluationSamples });
    const golds = responses.map((sample) => cellGold(cell, sample));
    const ofSft = arm.kind === "sft" ? await this.#measureSft(cell, shared) : {};
    return {
      cell: cellName(cell),
      arm: armName(arm),
      seed: this.#seed,
      gold: mean(golds),
      golds: golds.map(fourDigits),
      lengths: responses.map(({ response }) => response.length),
      reward: mean((await rewards.score(responses)).total),
      scored,
      seconds,
      weights: await hashModelFolder(output),
      ...ofSft,
      ...defined({ rho, frontier, failure }),
    };
  }

  /** Preferences do not see offsets: those cells share one DPO policy with that of no flips. */
  async #dpo(cell: Cell, policy: string, preferences: readonly PreferenceText[]): Promise<string> {
    const kind = cell.kind === "binary" ? `binary-${cell.level}` : cell.kind === "flips" ? cell.rate : 0;
    const settings = this.#training(this.#settings.dpoSteps, 5e-4 * rateOf[this.#model]);
    return await this.#stage(`dpo-${kind}`, (where) =>
      dpo({ policy, preferences, beta: 0.2, form: { kind: "sigmoid" }, settings, ...where, ...this.#context }),
    );
  }

  async #measureSft(
    cell: Cell,
    { policy, prompts, rewards, accuracy }: CellContext,
  ): Promise<{ offline: number[]; gradient?: GradientVariance[]; rewardAccuracy?: number }> {
    const { heldOut } = this.#prompts;
    const sampler = { ...this.#sampler, seed: this.#seed + 300_000 };
    const texts = promptTexts(heldOut);
    const responses = await respond(policy, { prompts: texts, samples: offlineSamples, sampler, batch });
    const { total } = await rewards.score(responses);
    const offline = heldOut.map((_, i) => fourDigits(mean(total.slice(i * offlineSamples, (i + 1) * offlineSamples))));
    const { samples, fewPrompts } = this.#settings;
    // Few prompts make two minibatches of gradients, whose variance is noise.
    if (cell.kind === "offset" && cell.prompts === fewPrompts) return { offline };
    const made = await this.#baselines(cell, policy, rewards, prompts, Math.max(...samples));
    if (!made) return { offline };
    const gradient = await measureGradientVariance({
      policy,
      rewards,
      prompts: promptTexts(prompts),
      store: made.store,
      samples,
      sampler: this.#sampler,
      minibatch: 16,
    });
    return { offline, gradient, ...defined({ rewardAccuracy: accuracy }) };
  }

  #ppoSettings(
    cell: Cell,
    { learningRate, klCoefficient }: TunedSettings,
    baseline: PpoSettings["baseline"],
    twice: boolean,
  ): PpoSettings {
    const grouped = baseline.kind === "leave-one-out";
    const rate = learningRate * rateOf[this.#model];
    const count = twice ? 2 * rollouts : rollouts;
    return {
      ...plainPpo,
      iterations: this.#settings.iterations,
      promptsPerIteration: grouped ? count / rolloutsPerPrompt : count,
      samplesPerPrompt: grouped ? rolloutsPerPrompt : 1,
      // As many updates with twice the rollouts.
      minibatch: twice ? 2 * minibatch : minibatch,
      maxNewTokens: taskResponseTokens,
      learningRate: rate,
      seed: this.#seed,
      kl: { where: "reward", coefficient: klCoefficient },
      critic: { kind: grouped ? "none" : "separate", warmupIterations: 0, learningRate: 2 * rate, coefficient: 1 },
      baseline,
      penalties: cell.kind === "flips" ? { unended: { kind: "subtract", value: unendedPenalty } } : {},
      // Only numbers that are not finite stop a run: a threshold would end noisy arms before quiet ones.
      alarms: { enabled: true, grace: this.#settings.iterations },
      checkpointEvery: this.#settings.iterations,
      keepCheckpoints: 1,
    };
  }
}

const fourDigits = (value: number): number => Math.round(value * 1e4) / 1e4;

function cpuSeconds(since: NodeJS.CpuUsage): number {
  const { user, system } = process.cpuUsage(since);
  return (user + system) / 1e6;
}

/** Pairs of neighbouring responses whose rewards differ, the better first. */
function byReward(responses: readonly ScoredSample[], scores: readonly number[]): PreferenceText[] {
  return pairsOf(responses).flatMap((pair, i) => {
    const difference = scores[2 * i]! - scores[2 * i + 1]!;
    return difference === 0 ? [] : preferenceOf(pair, i, difference > 0);
  });
}

async function frontierOf(run: string): Promise<(readonly [number, number])[]> {
  const metrics = (await readMetricsFile(join(run, RUN_LAYOUT.metrics))).map(({ values }) => values);
  return Array.from({ length: Math.floor(metrics.length / frontierWindow) }, (_, i) => {
    const some = metrics.slice(i * frontierWindow, (i + 1) * frontierWindow);
    const of = (name: string) => fourDigits(mean(some.map((values) => values[name]!)));
    return [of("objective/kl"), of("gold/mean")] as const;
  });
}
