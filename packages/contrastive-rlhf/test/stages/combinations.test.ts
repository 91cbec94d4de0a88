import { join } from "node:path";
import { readMetricsFile } from "@trefoil/core";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import {
  type Aggregation,
  aggregate,
  type BaselineSettings,
  BaselineStore,
  baselines,
  EpisodeEncoder,
  type KlSettings,
  mean,
  type PenaltyOptions,
  type PpoSettings,
  penalise,
  ppo,
  type Shaper,
} from "../../src/index.js";
import { letterReward, ppoSettings, sampler, temporaryFolder, texts, tokenizer, trainSmallPolicy } from "./small.js";

const rows = texts.map(({ row, ...text }) => {
  const [short, long] = [text.prompt.slice(0, 1), text.prompt.slice(0, 4)];
  return { ...text, row: { ...row, short: [short, 0.25], long: [long, 0.25] } };
});
const keys = new EpisodeEncoder(tokenizer, [257], 16).prompts(rows, 8).map((prompt) => letterReward.promptKey(prompt));

describe("what PPO can be made of", () => {
  let folder: Awaited<ReturnType<typeof temporaryFolder>>;
  let policy: string;
  let store: string;
  let runs = 0;
  beforeAll(async () => {
    folder = await temporaryFolder();
    policy = await trainSmallPolicy(folder.path, 150);
    store = join(folder.path, "store");
    await baselines({ policy, rewards: letterReward, prompts: rows, samples: 5, sampler, batch: 64, store });
  }, 60_000);
  afterAll(async () => await folder[Symbol.asyncDispose]());

  /** Metrics of iterations that see every prompt once (or as many times as there are samples of it). */
  const train = async (extra: Partial<PpoSettings>, iterations = 2) => {
    const output = join(folder.path, `run-${runs++}`);
    const { samplesPerPrompt = 1 } = extra;
    const settings = ppoSettings({
      iterations,
      promptsPerIteration: texts.length,
      minibatch: 12 * samplesPerPrompt,
      epochs: 1,
      checkpointEvery: iterations,
      ...extra,
    });
    await ppo({ policy, rewards: letterReward, prompts: rows, settings, output, run: `${output}-run` });
    const metrics = (await readMetricsFile(join(`${output}-run`, "metrics.jsonl"))).map(({ values }) => values);
    expect(metrics).toHaveLength(iterations);
    for (const values of metrics)
      for (const [name, value] of Object.entries(values)) expect(Number.isFinite(value), name).toBe(true);
    return metrics;
  };
  const offline = (aggregation: Aggregation = { kind: "mean" }): BaselineSettings => ({
    kind: "offline",
    store,
    samples: 5,
    aggregation,
  });

  const providers: Record<BaselineSettings["kind"], () => Partial<PpoSettings>> = {
    none: () => ({ baseline: { kind: "none" } }),
    offline: () => ({ baseline: offline() }),
    "reference-column": () => ({
      baseline: { kind: "reference-column", column: "short", aggregation: { kind: "mean" } },
    }),
    greedy: () => ({ baseline: { kind: "greedy" } }),
    "leave-one-out": () => ({ baseline: { kind: "leave-one-out" }, samplesPerPrompt: 3 }),
    group: () => ({ baseline: { kind: "group" }, samplesPerPrompt: 3 }),
  };
  const shapers: Shaper[] = [
    { kind: "identity" },
    { kind: "sigmoid" },
    { kind: "log-sigmoid" },
    { kind: "clip", limit: 0.1 },
    { kind: "running-scale" },
    { kind: "match-std" },
  ];
  const pairs = Object.entries(providers).flatMap(([kind, provider]) =>
    shapers.map((shaper) => [kind, shaper.kind, provider, shaper] as const),
  );

  test.each(pairs)("every provider runs with every shaper: %s, %s", async (kind, _, provider, shaper) => {
    const extra = provider();
    const [first] = await train({ ...extra, shaper });
    const of = (name: string) => first![name]!;
    const [centre, spread] = [of("rewards/contrastive/mean"), of("rewards/contrastive/std")];
    // A policy that is still the SFT policy is compared with its like: rewards are 0 to 4/8, baselines as much.
    expect(of("objective/scores")).toBeGreaterThan(0);
    expect(of("rewards/baseline/mean") === 0).toBe(kind === "none");
    expect(of("rewards/frac_above_baseline")).toBeGreaterThan(0);
    expect("contrast/rho" in first!).toBe(kind === "offline");
    if (shaper.kind === "identity" && kind !== "group")
      expect(centre).toBeCloseTo(of("objective/scores") - of("rewards/baseline/mean"), 10);
    if (shaper.kind === "sigmoid") expect(centre > 0 && centre < 1).toBe(true);
    if (shaper.kind === "log-sigmoid") expect(centre).toBeLessThan(0);
    if (shaper.kind === "clip") expect(Math.abs(centre) <= 0.1 && spread <= 0.1).toBe(true);
    // Of the first batch: the running deviation is its own, with n - 1.
    const count = texts.length * (extra.samplesPerPrompt ?? 1);
    if (shaper.kind === "running-scale") expect(spread).toBeCloseTo(Math.sqrt((count - 1) / count), 10);
    // Differences within a group, and GRPO's scale, add up to nothing.
    if (kind === "group" && /identity|running|match/.test(shaper.kind)) expect(Math.abs(centre)).toBeLessThan(1e-9);
  });

  const penalties: PenaltyOptions = {
    unended: { kind: "replace", value: -1 },
    overlong: { limit: 6, buffer: 3, weight: 0.5 },
  };

  test.each<Aggregation>([
    { kind: "mean" },
    { kind: "median" },
    { kind: "trimmed-mean", fraction: 0.2 },
    { kind: "quantile", q: 0.8 },
  ])("baselines are the stored samples after the rules on ends and lengths: $kind", async (aggregation) => {
    const stored = await BaselineStore.load(store);
    const expected = keys.map((key) => {
      const { rewards, tokens, ended } = stored.samples(key, 5);
      return aggregate(
        rewards.map((reward, j) => penalise(reward, { length: tokens[j]!.length, ended: ended[j]! }, penalties)),
        aggregation,
      );
    });
    const [first] = await train({ baseline: offline(aggregation), penalties }, 1);
    expect(first!["rewards/baseline/mean"]).toBeCloseTo(mean(expected), 10);
    const [without] = await train({ baseline: offline(aggregation) }, 1);
    expect(without!["rewards/baseline/mean"]).not.toBeCloseTo(mean(expected), 3);
    // A response of four letters and its end is 2/3 over the buffer; a number in the row is a reward as it is.
    const column = { kind: "reference-column", column: "long", aggregation } as const;
    const [reference] = await train({ baseline: column, penalties }, 1);
    expect(reference!["rewards/baseline/mean"]).toBeCloseTo(aggregate([0.25, 0.5 - (0.5 * 2) / 3], aggregation), 10);
  });

  test("greedy baselines are punished like rollouts", async () => {
    const baseline = { kind: "greedy" } as const;
    const [plain] = await train({ baseline }, 1);
    // Every length is beyond the limit of 1 and costs the whole 4.
    const [punished] = await train({ baseline, penalties: { overlong: { limit: 1, buffer: 1, weight: 4 } } }, 1);
    expect(punished!["rewards/baseline/mean"]).toBeCloseTo(plain!["rewards/baseline/mean"]! - 4, 10);
    expect(punished!["rewards/contrastive/mean"]).toBeCloseTo(plain!["rewards/contrastive/mean"]!, 10);
  });

  const kls = (["reward", "loss-k2", "loss-k3"] as const).flatMap((where): KlSettings[] => [
    { where, coefficient: 0.1 },
    { where, coefficient: 0.1, adaptive: { target: 0.02, horizon: 100 } },
  ]);
  test.each(kls)("KL $where, adaptive $adaptive", async (kl) => {
    const metrics = await train({ kl, baseline: offline() }, 3);
    const coefficients = metrics.map((values) => values["kl/coef"]);
    if (kl.adaptive) expect(new Set(coefficients).size).toBe(3);
    else expect(coefficients).toEqual([0.1, 0.1, 0.1]);
    const last = metrics[2]!;
    expect(last["objective/kl"]).not.toBe(0);
    if (kl.where === "reward")
      expect(last["objective/non_score_reward"]).toBeCloseTo(-coefficients[2]! * last["objective/kl"]!, 6);
    else expect(Math.abs(last["objective/non_score_reward"]!)).toBe(0);
  });

  test.each(["none", "separate", "shared"] as const)("critic %s with contrast", async (kind) => {
    const critic = { kind, warmupIterations: 0, learningRate: 1e-3, coefficient: 0.1, clip: 0.2 };
    const metrics = await train({ critic, baseline: offline(), dualClip: 3 });
    expect("value/explained_variance" in metrics[1]!).toBe(kind !== "none");
  });
});
