import {
  defined,
  type JsonValue,
  loadTokenizer,
  namedState,
  Permutation,
  requireFreeOutput,
  rowsOfStep,
  runSteps,
  type StepScalars,
  saveModel,
} from "@trefoil/core";
import { adaptKlCoefficient, mean, penalise, RewardShaper } from "../../algorithm/index.js";
import { EpisodeEncoder, longestOf, type PromptTokens } from "../../data/index.js";
import { RlhfError } from "../../errors.js";
import { hashModelFolder, loadScoreModel, OpenPolicy, Sampler, ScoreModel } from "../../models/index.js";
import { hashRows } from "../hash-rows.js";
import { findAlarm, requireFirstRatio, type ScoredBatch, saveAlarm } from "./alarms.js";
import { type Experience, makeExperience } from "./experience.js";
import { Clock, experienceMetrics, goldMetrics, responseMetrics, rewardMetrics, updateMetrics } from "./metrics.js";
import type { PpoOptions, PpoSettings } from "./options.js";
import { type BaselineProvider, makeProvider } from "./providers.js";
import { type Rollout, rollOut } from "./rollout.js";
import { SftQuality } from "./sft-quality.js";
import { type Critic, PpoPrograms, type UpdateMetrics } from "./update.js";

/** Seeds of the orders of prompts and minibatches are told apart by this. */
const minibatchStream = 2;

/** What practitioners watch, what matters most first: a narrow terminal shows the beginning. */
const shownMetrics = {
  reward: "objective/scores",
  KL: "objective/kl",
  above: "rewards/frac_above_baseline",
  length: "response/length_mean",
  entropy: "policy/entropy",
  clipped: "policy/clipfrac",
  explained: "value/explained_variance",
};

/**
 * Proximal policy optimisation (arXiv 1707.06347) of a policy against rewards, with contrastive or other baselines (arXiv 2403.07708).
 * Returns whether it came to the end.
 * @throws RlhfError `RLHF_STORE_MISMATCH` for baselines of other models, `RLHF_REWARD`, `RLHF_RATIO`, `RLHF_ALARM`
 */
export async function ppo(options: PpoOptions): Promise<boolean> {
  const { settings, rewards, overwrite } = options;
  requireFreeOutput(options);
  requireSettings(settings);
  using policy = await OpenPolicy.open(options.policy);
  using reference = await OpenPolicy.open(options.policy);
  const { maxPositions } = policy.model.config;
  const encoder = new EpisodeEncoder(policy.tokenizer, policy.eosTokenIds, maxPositions);
  const prompts = encoder.prompts(options.prompts, settings.maxNewTokens);
  const longest = longestOf(prompts, ({ tokens }) => tokens.length);
  const rollouts = settings.promptsPerIteration * settings.samplesPerPrompt;
  using sampler = new Sampler(policy.model, rollouts, longest, settings.maxNewTokens);
  const critic = await makeCritic(policy, settings, longest + settings.maxNewTokens);
  using _ = { [Symbol.dispose]: () => critic.kind === "separate" && critic.model[Symbol.dispose]() };

  const sft = await hashModelFolder(options.policy);
  const programs = new PpoPrograms(policy, reference, critic, settings);
  programs.requireMemory(prompts.map(({ tokens }) => tokens));
  const context = {
    policy,
    sampler,
    rewards,
    prompts,
    encoder,
    penalties: settings.penalties,
    samplesPerPrompt: settings.samplesPerPrompt,
  };
  const { temperature, maxNewTokens } = settings;
  const provider = await makeProvider(settings.baseline, {
    ...context,
    identity: { sft, reward: rewards.hash },
    rollout: { temperature, maxNewTokens },
  });
  const { gold } = options;
  using ofReference = gold && new Sampler(reference.model, rollouts, longest, maxNewTokens);
  const sftQuality =
    gold && new SftQuality(gold, reference, ofReference!, { temperature, maxNewTokens, seed: settings.seed });
  const loop = new PpoLoop(options, { policy, sampler, programs, provider, prompts, sftQuality });

  const completed = await runSteps(options, {
    title: "ppo",
    shown: shownMetrics,
    config: {
      ...{ sft, reward: rewards.hash, prompts: hashRows(options.prompts) },
      ...defined({ baselines: provider.hash }),
      settings,
    },
    settings: { ...settings, steps: settings.iterations },
    parameters: namedState({
      policy: policy.model,
      policyOptimizer: programs.policyOptimizer,
      ...(critic.kind === "separate" && { critic: critic.model }),
      ...(critic.kind === "shared" && { critic: critic.model.score }),
      ...(programs.valueOptimizer && { valueOptimizer: programs.valueOptimizer }),
    }),
    state: loop,
    step: async (iteration) => await loop.iterate(iteration),
  });
  if (completed) {
    await saveModel(policy.model, options.output, {
      config: policy.config,
      tokenizerFrom: options.policy,
      ...defined({ overwrite }),
    });
  }
  return completed;
}

function requireSettings({
  promptsPerIteration,
  samplesPerPrompt,
  minibatch,
  critic,
  iterations,
  temperature,
  dualClip,
}: PpoSettings): void {
  const rollouts = promptsPerIteration * samplesPerPrompt;
  if (rollouts % minibatch !== 0) {
    throw new RlhfError(
      "RLHF_OPTIONS",
      `the ${rollouts} rollouts of an iteration are not a multiple of the minibatch of ${minibatch}`,
    );
  }
  if (dualClip !== undefined && dualClip <= 1)
    throw new RlhfError("RLHF_OPTIONS", `dualClip is ${dualClip}: with 1 or less bad actions would teach nothing`);
  if (temperature <= 0) throw new RlhfError("RLHF_OPTIONS", "PPO samples: the temperature must be above 0");
  if (critic.kind !== "none" && critic.warmupIterations >= iterations) {
    throw new RlhfError(
      "RLHF_OPTIONS",
      `${critic.warmupIterations} iterations of critic warm-up leave none of ${iterations} to train the policy`,
    );
  }
}

/** @param positions tokens of a prompt and its response at most */
async function makeCritic(policy: OpenPolicy, { critic, seed }: PpoSettings, positions: number): Promise<Critic> {
  if (critic.kind === "none") return { kind: "none" };
  const { kind } = critic;
  let model: ScoreModel;
  if (kind === "shared") model = new ScoreModel(policy.model, seed);
  else {
    const { from = policy.path } = critic;
    if ((await loadTokenizer(from)).hash !== policy.tokenizer.hash)
      throw new RlhfError("RLHF_MODEL", `the critic ${from} has another tokenizer than the policy`);
    ({ model } = await loadScoreModel(from, seed));
    const { maxPositions } = model.trunk.config;
    if (maxPositions < positions) {
      model[Symbol.dispose]();
      throw new RlhfError(
        "RLHF_MODEL",
        `the critic ${from} reads ${maxPositions} tokens, but a prompt with its response may have ${positions}`,
      );
    }
  }
  // Values start at 0: a random head would first have to be unlearned.
  model.score.weight.set(new Float32Array(model.score.weight.size));
  return { kind, model };
}

interface LoopParts {
  policy: OpenPolicy;
  sampler: Sampler;
  programs: PpoPrograms;
  provider: BaselineProvider;
  prompts: readonly PromptTokens[];
  /** Where the true quality is known. */
  sftQuality?: SftQuality | undefined;
}

/** One iteration after the other; what it remembers between them is the `state` of checkpoints. */
class PpoLoop {
  readonly #options: PpoOptions;
  readonly #parts: LoopParts;
  readonly #shaper: RewardShaper;
  #klCoefficient: number;
  #episodes = 0;
  /** Metrics of the first iteration, which alarms compare with. */
  #first: Record<string, number> | undefined;

  constructor(options: PpoOptions, parts: LoopParts) {
    this.#options = options;
    this.#parts = parts;
    this.#shaper = new RewardShaper(options.settings.shaper, options.settings.rewardClip);
    this.#klCoefficient = options.settings.kl.coefficient;
  }

  save(): JsonValue {
    const state = {
      klCoefficient: this.#klCoefficient,
      episodes: this.#episodes,
      shaper: this.#shaper.state(),
      first: this.#first ?? null,
    };
    return state as unknown as JsonValue;
  }

  restore(saved: JsonValue): void {
    const state = saved as unknown as {
      klCoefficient: number;
      episodes: number;
      shaper: ReturnType<RewardShaper["state"]>;
      first: Record<string, number> | null;
    };
    this.#klCoefficient = state.klCoefficient;
    this.#episodes = state.episodes;
    this.#shaper.restore(state.shaper);
    this.#first = state.first ?? undefined;
  }

  async iterate(iteration: number): Promise<StepScalars> {
    const { settings, rewards } = this.#options;
    const { policy, sampler, programs, provider, prompts } = this.#parts;
    const clock = new Clock();
    const drawn = rowsOfStep(prompts.length, settings.promptsPerIteration, iteration, settings.seed).map(
      (row) => prompts[row]!,
    );
    const { temperature, maxNewTokens, seed } = settings;
    const sampling = { temperature, maxNewTokens, seed, stream: iteration + 1 };
    const rollouts = await rollOut(sampler, policy, drawn, settings.samplesPerPrompt, sampling);
    clock.lap("rollout");

    const { total: raw, parts } = await rewards.score(rollouts);
    const scores = rollouts.map(({ response, ended }, i) =>
      penalise(raw[i]!, { length: response.length, ended }, settings.penalties),
    );
    clock.lap("score");
    const compared = await provider.compare(rollouts, scores, sampling);
    const shaped = this.#shaper.shape(compared);
    clock.lap("baseline");
    const measured = await programs.measure(rollouts);
    const counts = rollouts.map(({ ended }) => ended || !settings.maskTruncated);
    const experience = makeExperience(measured, shaped, counts, this.#klCoefficient, settings);
    clock.lap("score");

    const klCoefficient = this.#klCoefficient;
    const batch: ScoredBatch = { rollouts, raw, compared, shaped };
    const updates = await this.#train(iteration, batch, experience);
    clock.lap("train");
    this.#episodes += rollouts.length;
    const metrics = {
      ...updateMetrics(updates, settings),
      ...rewardMetrics(raw, parts, compared, shaped),
      ...responseMetrics(rollouts),
      ...experienceMetrics(experience, settings),
      ...(await this.#goldMetrics(rollouts, raw)),
      ...(provider.contrast && {
        "contrast/rho": provider.contrast.rho,
        "contrast/predicted_variance_ratio": provider.contrast.predictedVarianceRatio,
      }),
      "kl/coef": klCoefficient,
      // Before the updates, per token, at the sampling temperature.
      "policy/entropy": mean(measured.entropies.flatMap((row) => Array.from(row))),
      episode: this.#episodes,
    };
    this.#first ??= metrics;
    await this.#stopOnAlarm(iteration, metrics, batch);
    const { kl } = settings;
    if (kl.adaptive)
      this.#klCoefficient = adaptKlCoefficient(klCoefficient, experience.kl, rollouts.length, kl.adaptive);
    const tokens = rollouts.reduce((sum, { response }) => sum + response.length, 0);
    const times = clock.times();
    const spent = Object.values(times).reduce((sum, seconds) => sum + seconds, 0);
    const share = times["time/baseline"]! / spent;
    return {
      ...{ loss: metrics["loss/policy"], ...metrics, ...times },
      ...{ "time/baseline_share": share, tokens_per_s: tokens / spent, tokens },
    };
  }

  async #train(iteration: number, scored: ScoredBatch, { targets }: Experience): Promise<UpdateMetrics[]> {
    const { rollouts } = scored;
    const { epochs, minibatch, critic, seed } = this.#options.settings;
    const trainPolicy = critic.kind === "none" || iteration >= critic.warmupIterations;
    const updates: Promise<UpdateMetrics>[] = [];
    try {
      for (let epoch = 0; epoch < epochs; epoch++) {
        const order = new Permutation(rollouts.length, seed, iteration * epochs + epoch, minibatchStream);
        for (let from = 0; from < rollouts.length; from += minibatch) {
          const rows = Array.from({ length: minibatch }, (_, i) => order.at(from + i));
          const batch = rows.map((row) => rollouts[row]!);
          const ofBatch = rows.map((row) => targets[row]!);
          updates.push(this.#parts.programs.update(batch, ofBatch, this.#klCoefficient, trainPolicy));
          if (updates.length === 1) {
            const { ratioDeviation } = await updates[0]!;
            await requireFirstRatio(ratioDeviation, this.#options.run, iteration, scored);
          }
          // The next batch is laid out, and its program made, while this one runs.
          await updates.at(-2);
        }
      }
    } finally {
      await Promise.allSettled(updates);
    }
    return await Promise.all(updates);
  }

  async #goldMetrics(rollouts: readonly Rollout[], raw: readonly number[]): Promise<Record<string, number>> {
    const { sftQuality } = this.#parts;
    if (!sftQuality) return {};
    return goldMetrics(await sftQuality.gold(rollouts), await sftQuality.of(rollouts), raw);
  }

  async #stopOnAlarm(iteration: number, metrics: Record<string, number>, batch: ScoredBatch): Promise<void> {
    const alarm = findAlarm(metrics, this.#first!, iteration, this.#options.settings.alarms);
    if (!alarm) return;
    const path = await saveAlarm(this.#options.run, iteration, alarm, batch, metrics);
    throw new RlhfError(
      "RLHF_ALARM",
      `iteration ${iteration + 1}: ${alarm}. The batch is in ${path}; alarms.enabled false goes on regardless`,
    );
  }
}
