import { createHash } from "node:crypto";
import { existsSync } from "node:fs";
import { appendFile, mkdir, readFile, rm } from "node:fs/promises";
import { join } from "node:path";
import { ByteTokenizer, loadTokenizer } from "@trefoil/core";
import { mean } from "../algorithm/index.js";
import { hashModelFolder } from "../models/index.js";
import {
  defined,
  dpo,
  functionReward,
  loadModelReward,
  type PpoSettings,
  ppo,
  RewardSum,
  respond,
  type StageContext,
  sampleBaselines,
  sft,
  type TrainingSettings,
  trainRewardModel,
} from "../stages/index.js";
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
import { type Arm, armName, armsOf, type Cell, cellName, cellsOf, type ExperimentSettings } from "./plan.js";

/** One trained arm of one seed: a line of `results.jsonl`. */
export interface ResultRow {
  cell: string;
  arm: string;
  seed: number;
  /** Mean true quality on held-out prompts; that of SFT for an arm that broke, which `failure` then says. */
  gold: number;
  /** True quality of each held-out response. */
  golds: number[];
  reward: number;
  length: number;
  /** Hash of the weights. */
  weights: string;
  rho?: number;
  failure?: string;
}

/** Rewards are rounded to multiples of 2^-20: sums and differences of them are exact, so offsets cancel to the last bit. */
const grain = 2 ** 20;
const rounded = (value: number): number => Math.round(value * grain) / grain;
const batch = 128;

export async function readResults(directory: string): Promise<ResultRow[]> {
  const path = join(directory, "results.jsonl");
  if (!existsSync(path)) return [];
  // A line torn by a kill is left out, and its arm run again.
  return (await readFile(path, "utf8")).split("\n").flatMap((line) => {
    try {
      return [JSON.parse(line) as ResultRow];
    } catch {
      return [];
    }
  });
}

/** Runs every arm of every cell and seed that has no result yet. Returns whether all were run. */
export async function runExperiment(
  directory: string,
  settings: ExperimentSettings,
  context: StageContext,
): Promise<boolean> {
  await mkdir(directory, { recursive: true });
  const known = new Set((await readResults(directory)).map(({ cell, arm, seed }) => `${seed} ${cell} ${arm}`));
  for (let seed = 1; seed <= settings.seeds; seed++) {
    for (const cell of cellsOf(settings)) {
      const arms = armsOf(cell, settings).filter((arm) => !known.has(`${seed} ${cellName(cell)} ${armName(arm)}`));
      if (arms.length === 0) continue;
      using prepared = await new SeedStages(join(directory, `seed-${seed}`), seed, settings, context).prepare(cell);
      for (const arm of arms) {
        if (context.signal?.aborted) return false;
        const row = await prepared.run(arm);
        if (!row) return false;
        // The line feed before it ends a line that a kill has torn.
        await appendFile(join(directory, "results.jsonl"), `\n${JSON.stringify(row)}\n`);
        const note = row.failure ? ` (${row.failure})` : "";
        context.progress?.log(`seed ${seed}, ${row.cell}, ${row.arm}: true quality ${row.gold.toFixed(3)}${note}`);
      }
    }
  }
  return true;
}

/** What one seed shares between its cells and arms. */
class SeedStages {
  readonly #folder: string;
  readonly #seed: number;
  readonly #settings: ExperimentSettings;
  readonly #context: StageContext;

  constructor(folder: string, seed: number, settings: ExperimentSettings, context: StageContext) {
    this.#folder = folder;
    this.#seed = seed;
    this.#settings = settings;
    this.#context = defined(context);
  }

  #path(...parts: string[]): string {
    return join(this.#folder, ...parts);
  }

  #training(steps: number, learningRate: number): TrainingSettings {
    const rest = {
      warmupSteps: 20,
      weightDecay: 0,
      clipNorm: 1,
      maxLength: 16,
      checkpointEvery: 500,
      keepCheckpoints: 1,
    };
    return { steps, batch: 64, learningRate, seed: this.#seed, ...rest };
  }

  get #sampler() {
    return { temperature: 1, maxNewTokens: taskResponseTokens, seed: this.#seed };
  }

  async prepare(cell: Cell): Promise<{ run(arm: Arm): Promise<ResultRow | undefined> } & Disposable> {
    const seed = this.#seed;
    const { heldOut, training } = taskPrompts(this.#settings.prompts, this.#settings.heldOutPrompts, seed);
    const prompts = cell.kind === "offset" ? training.slice(0, cell.prompts) : training;
    const policy = this.#path("sft");
    if (!existsSync(policy)) {
      const sizes = { hiddenSize: 64, intermediateSize: 128, layers: 2, heads: 4, keyValueHeads: 4, maxPositions: 16 };
      const demonstrations = taskDemonstrations([...training, ...training, ...training, ...training], 0.4, seed);
      const from = { tokenizer: new ByteTokenizer(), ...sizes };
      const settings = this.#training(this.#settings.sftSteps, 3e-3);
      await this.#clear("sft-run");
      await sft({
        from,
        demonstrations,
        trainOnPrompts: false,
        settings,
        output: policy,
        run: this.#path("sft-run"),
        ...this.#context,
      });
    }
    const { rewards, preferences } = await this.#rewardsOf(cell, policy, training);
    const run = async (arm: Arm) => await this.#arm(cell, arm, { policy, prompts, heldOut, rewards, preferences });
    return { run, [Symbol.dispose]: () => rewards[Symbol.dispose]() };
  }

  async #clear(name: string): Promise<void> {
    await rm(this.#path(name), { recursive: true, force: true });
  }

  async #rewardsOf(cell: Cell, policy: string, training: readonly string[]) {
    const seed = this.#seed;
    if (cell.kind === "offset") {
      const { sigma } = cell;
      const name = `true quality with offset ${sigma}`;
      const score = functionReward(name, `${name} ${seed}`, (samples) =>
        samples.map(
          ({ promptText, responseText, ended }) =>
            rounded(gold(promptText, responseText, ended)) + rounded(sigma * promptNormal(promptText, seed)),
        ),
      );
      return { rewards: new RewardSum([{ reward: score, weight: 1 }]), preferences: [] };
    }
    const sampler = { ...this.#sampler, seed: seed + 1000 };
    const compared = await respond(policy, { prompts: promptTexts(training), samples: 16, sampler, batch });
    const preferences = taskPreferences(pairsOf(compared), 6, cell.rate, seed);
    const name = `reward-${cell.rate}`;
    if (!existsSync(this.#path(name))) {
      await this.#clear(`${name}-run`);
      const settings = this.#training(this.#settings.rewardSteps, 1e-3);
      const options = { from: policy, preferences, heldOut: 0.05, centre: 0, normalise: "mean" as const, settings };
      await trainRewardModel({
        ...options,
        output: this.#path(name),
        run: this.#path(`${name}-run`),
        ...this.#context,
      });
    }
    const reward = await loadModelReward(this.#path(name), await loadTokenizer(policy), batch);
    return { rewards: new RewardSum([{ reward, weight: 1 }]), preferences };
  }

  async #arm(
    cell: Cell,
    arm: Arm,
    shared: {
      policy: string;
      prompts: readonly string[];
      heldOut: readonly string[];
      rewards: RewardSum;
      preferences: ReturnType<typeof taskPreferences>;
    },
  ): Promise<ResultRow | undefined> {
    const { policy, prompts, heldOut, rewards, preferences } = shared;
    const [output, run] = [this.#path("arm"), this.#path("arm-run")];
    await this.#clear("arm");
    await this.#clear("arm-run");
    const where = { output, run, ...this.#context };
    const texts = promptTexts(prompts);
    let rho: number | undefined;
    let failure: string | undefined;
    let completed = true;
    try {
      if (arm.kind === "dpo") {
        const settings = this.#training(this.#settings.rewardSteps, 5e-4);
        completed = await dpo({ policy, preferences, beta: 0.2, form: { kind: "sigmoid" }, settings, ...where });
      } else if (arm.kind !== "sft") {
        let baseline: PpoSettings["baseline"] =
          arm.kind === "leave-one-out" ? { kind: "leave-one-out" } : { kind: "none" };
        if (arm.kind === "contrast") {
          const store = this.#path(
            `baselines-${createHash("sha256").update(cellName(cell)).digest("hex").slice(0, 8)}`,
          );
          const made = await sampleBaselines({
            policy,
            rewards,
            prompts: texts,
            samples: arm.samples,
            sampler: this.#sampler,
            batch,
            store,
            ...this.#context,
          });
          if (!made.completed) return undefined;
          if (Number.isFinite(made.rho)) ({ rho } = made);
          baseline = { kind: "offline", store, samples: arm.samples, aggregation: { kind: "mean" } };
        }
        completed = await ppo({ policy, rewards, prompts: texts, settings: this.#ppoSettings(baseline), ...where });
      }
    } catch (error) {
      // A run that breaks counts as one that learned nothing, and is reported.
      failure = error instanceof Error ? error.message : String(error);
    }
    if (!completed) return undefined;
    const result = arm.kind === "sft" || failure !== undefined ? policy : output;
    const responses = await respond(result, {
      prompts: promptTexts(heldOut),
      samples: 2,
      sampler: this.#sampler,
      batch,
    });
    const golds = responses.map(({ promptText, responseText, ended }) => gold(promptText, responseText, ended));
    return {
      cell: cellName(cell),
      arm: armName(arm),
      seed: this.#seed,
      gold: mean(golds),
      golds: golds.map((value) => Math.round(value * 1e4) / 1e4),
      reward: mean((await rewards.score(responses)).total),
      length: mean(responses.map(({ response }) => response.length)),
      weights: await hashModelFolder(result),
      ...defined({ rho, failure }),
    };
  }

  #ppoSettings(baseline: PpoSettings["baseline"]): PpoSettings {
    const grouped = baseline.kind === "leave-one-out";
    return {
      iterations: this.#settings.iterations,
      // Equal numbers of rollouts, and of scored ones, per iteration.
      promptsPerIteration: grouped ? 16 : 64,
      samplesPerPrompt: grouped ? 4 : 1,
      epochs: 4,
      minibatch: 32,
      temperature: 1,
      maxNewTokens: taskResponseTokens,
      gamma: 1,
      lambda: 0.95,
      clip: 0.2,
      entropyCoefficient: 0,
      whitenAdvantages: true,
      whitenRewards: false,
      maskTruncated: false,
      learningRate: 3e-4,
      clipNorm: 1,
      seed: this.#seed,
      kl: { where: "reward", coefficient: 0.15 },
      critic: { kind: grouped ? "none" : "separate", warmupIterations: 0, learningRate: 9e-4, coefficient: 1 },
      baseline,
      shaper: { kind: "identity" },
      penalties: {},
      alarms: { enabled: true, grace: this.#settings.iterations },
      checkpointEvery: 1000,
      keepCheckpoints: 1,
    };
  }
}
