import { spawn } from "node:child_process";
import { existsSync } from "node:fs";
import { cp, readFile, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { checkpointSteps, makeTokenizer, readMetricsFile, tokenizerFiles, WALL_CLOCK_FIELDS } from "@trefoil/core";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import {
  baselines,
  hashModelFolder,
  type PpoSettings,
  type PromptText,
  ppo,
  type RewardFunction,
  type RewardSum,
  taskTokenizer,
} from "../../src/index.js";
import { requireFirstRatio } from "../../src/stages/ppo/alarms.js";
import {
  letterReward,
  ppoSettings,
  prompts,
  rewardOf,
  sampler,
  temporaryFolder,
  texts,
  trainSmallPolicy,
} from "./small.js";

describe("PPO", () => {
  let folder: Awaited<ReturnType<typeof temporaryFolder>>;
  let policy: string;
  const at = (name: string) => join(folder.path, name);
  beforeAll(async () => {
    folder = await temporaryFolder();
    policy = await trainSmallPolicy(folder.path);
    await baselines({
      policy,
      rewards: letterReward,
      prompts: texts,
      samples: 4,
      sampler,
      batch: 32,
      store: at("store"),
    });
  }, 60_000);
  afterAll(async () => await folder[Symbol.asyncDispose]());

  const contrast = { kind: "offline", samples: 4, aggregation: { kind: "mean" } } as const;
  const train = async (
    name: string,
    extra: Partial<PpoSettings> = {},
    rewards: RewardSum = letterReward,
    rows: PromptText[] = texts,
  ) => {
    await ppo({
      policy,
      rewards,
      prompts: rows,
      settings: ppoSettings(extra),
      output: at(name),
      run: at(`${name}-run`),
    });
    return (await readMetricsFile(join(at(`${name}-run`), "metrics.jsonl"))).map(({ values }) => values);
  };

  test("before the first update the ratio is 1, and KL is 0", async () => {
    const metrics = await train("plain");
    for (const values of metrics) expect(values["policy/ratio_first"]).toBeLessThan(1e-6);
    expect(metrics[0]!["objective/kl"]).toBe(0);
    expect(metrics[0]).toMatchObject({ episode: 8, "kl/coef": 0.05 });
    expect(metrics.at(-1)!["objective/kl"]).not.toBe(0);
  });

  test("the reward rises", async () => {
    const distinct = rewardOf("distinct", (samples) =>
      samples.map(({ responseText }) => new Set(responseText).size / 8),
    );
    const settings = {
      iterations: 25,
      promptsPerIteration: 24,
      minibatch: 12,
      learningRate: 3e-3,
      kl: { where: "reward", coefficient: 0.01 },
    } as const;
    const metrics = await train("long", settings, distinct);
    const mean = (from: number, to: number) =>
      metrics.slice(from, to).reduce((sum, values) => sum + values["objective/scores"]!, 0) / (to - from);
    // About 0.5 to 0.8: four standard errors of the difference are 0.08.
    expect(mean(20, 25)).toBeGreaterThan(mean(0, 5) + 0.08);
    expect(metrics.at(-1)!["value/explained_variance"]).toBeGreaterThan(0);
  }, 60_000);

  test("an offset of each prompt's reward changes nothing with contrast, and much without", async () => {
    const offset = (prompt: string) => (prompt.charCodeAt(0) % 8) / 2;
    const shifted = rewardOf("shifted", async (samples) => {
      const { total } = await letterReward.score(samples as Parameters<typeof letterReward.score>[0]);
      return total.map((score, i) => score + offset(samples[i]!.promptText));
    });
    await baselines({
      policy,
      rewards: shifted,
      prompts: texts,
      samples: 4,
      sampler,
      batch: 32,
      store: at("shifted-store"),
    });
    const [first] = await train("without-offset", { baseline: { ...contrast, store: at("store") } });
    expect(first!["contrast/rho"]).toBeGreaterThanOrEqual(0);
    await train("with-offset", { baseline: { ...contrast, store: at("shifted-store") } }, shifted);
    expect(await hashModelFolder(at("with-offset"))).toBe(await hashModelFolder(at("without-offset")));
    await train("plain-offset", {}, shifted);
    await train("plain-none", {});
    expect(await hashModelFolder(at("plain-offset"))).not.toBe(await hashModelFolder(at("plain-none")));
  });

  test("a row's offline baseline is its own, though another has the same prompt", async () => {
    const rows = texts.slice(0, 4).flatMap((text) => [1, 5].map((worth) => ({ ...text, row: { ...text.row, worth } })));
    const rewards = rewardOf("worth", (samples) => samples.map(({ row }) => row.worth as number));
    await baselines({ policy, rewards, prompts: rows, samples: 2, sampler, batch: 32, store: at("worth-store") });
    const baseline = { ...contrast, samples: 2, store: at("worth-store") };
    const [first] = await train("worth", { baseline, iterations: 1 }, rewards, rows);
    expect(first).toMatchObject({ "rewards/baseline/mean": 3, "rewards/contrastive/std": 0 });
  });

  test.each<[string, Partial<PpoSettings>]>([
    ["greedy", { baseline: { kind: "greedy" } }],
    [
      "leave-one-out without critic",
      {
        baseline: { kind: "leave-one-out" },
        samplesPerPrompt: 2,
        promptsPerIteration: 4,
        critic: { kind: "none", warmupIterations: 0, learningRate: 1, coefficient: 1 },
      },
    ],
    ["group", { baseline: { kind: "group" }, samplesPerPrompt: 4, promptsPerIteration: 2 }],
    [
      "shared critic",
      { critic: { kind: "shared", warmupIterations: 0, learningRate: 1e-3, coefficient: 0.1, clip: 0.2 } },
    ],
    ["critic warm-up", { critic: { kind: "separate", warmupIterations: 2, learningRate: 1e-3, coefficient: 1 } }],
    ["KL in the loss", { kl: { where: "loss-k3", coefficient: 0.1, adaptive: { target: 0.01, horizon: 100 } } }],
    [
      "everything else",
      {
        dualClip: 3,
        entropyCoefficient: 0.01,
        whitenRewards: true,
        maskTruncated: true,
        rewardClip: 1,
        shaper: { kind: "running-scale" },
        penalties: { unended: { kind: "replace", value: -1 } },
      },
    ],
  ])("runs with %s", async (name, extra) => {
    const metrics = await train(name, extra);
    expect(metrics).toHaveLength(4);
    for (const values of metrics) for (const value of Object.values(values)) expect(Number.isFinite(value)).toBe(true);
    if (name === "critic warm-up") {
      expect(metrics.map((values) => values["lr/policy"]! > 0)).toEqual([false, false, true, true]);
      expect(metrics[2]!["objective/kl"]).toBe(0);
    }
    if (name === "KL in the loss") expect(metrics[3]!["kl/coef"]).not.toBe(metrics[0]!["kl/coef"]);
  });

  test("metrics have the names that practitioners know", async () => {
    const settings = { baseline: { ...contrast, store: at("store") }, iterations: 12 };
    const gold: RewardFunction = (samples) => samples.map(({ responseText }) => new Set(responseText).size);
    const output = { output: at("named"), run: at("named-run") };
    await ppo({ policy, rewards: letterReward, prompts: texts, settings: ppoSettings(settings), gold, ...output });
    const metrics = (await readMetricsFile(join(at("named-run"), "metrics.jsonl"))).map(({ values }) => values);
    const names = [
      ...["kl", "kl_k3", "kl_per_token", "scores", "non_score_reward", "rlhf_reward"].map((n) => `objective/${n}`),
      ...["contrastive/mean", "contrastive/std", "baseline/mean", "frac_above_baseline"].map((n) => `rewards/${n}`),
      ...[
        "approxkl_k1",
        "approxkl_k2",
        "approxkl_k3",
        "clipfrac",
        "entropy",
        "ratio_mean",
        "ratio_max",
        "grad_norm",
      ].map((n) => `policy/${n}`),
      ...["clipfrac", "explained_variance", "grad_norm"].map((n) => `value/${n}`),
      ...["length_mean", "length_p95", "length_max", "stop_rate", "truncated_rate"].map((n) => `response/${n}`),
      ...["gold/mean", "gold/win_rate_vs_sft", "proxy_gold/pearson", "loss/policy", "loss/value", "kl/coef"],
      ...["advantages/mean", "advantages/std", "returns/mean", "returns/std", "lr/policy", "lr/value"],
      ...["contrast/rho", "contrast/predicted_variance_ratio", "time/rollout", "time/score", "time/baseline"],
      ...["time/baseline_share", "time/train", "tokens_per_s", "episode"],
    ];
    for (const name of names) expect(metrics[0], name).toHaveProperty([name], expect.any(Number));
    // A policy that is still the SFT policy wins half of the comparisons: 8 of them have a standard error of 0.18 or less.
    expect(Math.abs(metrics[0]!["gold/win_rate_vs_sft"]! - 0.5)).toBeLessThan(0.5);
    const share = metrics.map((values) => {
      const parts = ["rollout", "score", "baseline", "train"].map((part) => values[`time/${part}`]!);
      const own = values["time/baseline"]! / parts.reduce((sum, seconds) => sum + seconds, 0);
      expect(values["time/baseline_share"]).toBeCloseTo(own, 12);
      return own;
    });
    // The median: a pause for garbage can fall into any part. An iteration of this policy takes 10 ms, of which 0.1 ms are 1 %; in the quickstart,
    // whose policy is small too, it is 0.4 %.
    expect(share.sort((a, b) => a - b)[6]).toBeLessThan(0.03);
  });

  test("a reference column holds responses or rewards", async () => {
    const rows = texts.map((text) => ({
      ...text,
      row: { ...text.row, reference: text.prompt.slice(0, 4), number: 0.5 },
    }));
    const [responses] = await train(
      "reference",
      { iterations: 1, baseline: { kind: "reference-column", column: "reference", aggregation: { kind: "mean" } } },
      letterReward,
      rows,
    );
    const [numbers] = await train(
      "number",
      { iterations: 1, baseline: { kind: "reference-column", column: "number", aggregation: { kind: "mean" } } },
      letterReward,
      rows,
    );
    // The reference names all four letters: 4 / 8.
    expect([responses!["rewards/baseline/mean"], numbers!["rewards/baseline/mean"]]).toEqual([0.5, 0.5]);
    await expect(
      train("no-reference", {
        baseline: { kind: "reference-column", column: "missing", aggregation: { kind: "mean" } },
      }),
    ).rejects.toThrow(/row 1: "missing"/);
  });

  test("rows of one prompt have references of their own", async () => {
    const rows = [0, 1].map((number, i) => ({ ...texts[0]!, line: i + 1, row: { prompt: texts[0]!.prompt, number } }));
    const baseline = { kind: "reference-column", column: "number", aggregation: { kind: "mean" } } as const;
    const [values] = await train("own-references", { iterations: 1, baseline }, letterReward, rows);
    expect(values!["rewards/baseline/mean"]).toBe(0.5);
  });

  test("a critic of another tokenizer or a shorter context is refused", async () => {
    const changed = async (name: string, file: string, change: (json: Record<string, unknown>) => object) => {
      await cp(policy, at(name), { recursive: true });
      const path = join(at(name), file);
      await writeFile(path, JSON.stringify(change(JSON.parse(await readFile(path, "utf8")))));
      return { kind: "separate", from: at(name), warmupIterations: 0, learningRate: 1e-3, coefficient: 1 } as const;
    };
    const short = await changed("short", "config.json", (json) => ({ ...json, max_position_embeddings: 8 }));
    await expect(train("short-critic", { critic: short })).rejects.toThrow(/short reads 8 tokens, but .* may have 14/);
    const other = await changed("other", "tokenizer.json", (json) => ({ ...json, normalizer: { type: "Lowercase" } }));
    await expect(train("other-critic", { critic: other })).rejects.toThrow(/other has another tokenizer/);
  });

  test("rewards that throw or are no numbers stop the run with what they were asked", async () => {
    const nan = rewardOf("broken", (samples) => samples.map((_, i) => (i === 3 ? Number.NaN : 1)));
    await expect(train("nan", {}, nan)).rejects.toMatchObject({
      code: "RLHF_REWARD",
      message: expect.stringMatching(/gave NaN for the response ".*" to ".*="/),
    });
    const throwing = rewardOf("throwing", () => {
      throw new Error("no licence");
    });
    await expect(train("throws", {}, throwing)).rejects.toMatchObject({
      code: "RLHF_REWARD",
      cause: { message: "no licence" },
    });
    await expect(
      train(
        "few",
        {},
        rewardOf("few", () => [1]),
      ),
    ).rejects.toThrow(/1 scores for 8 samples/);
  });

  test("an alarm stops the run and leaves the batch", async () => {
    await expect(
      train("alarm", { alarms: { enabled: true, grace: 0 }, learningRate: 3, iterations: 6 }),
    ).rejects.toMatchObject({ code: "RLHF_ALARM" });
    const file = [1, 2, 3, 4, 5, 6].map((i) => join(at("alarm-run"), `alarm-${i}.json`)).find(existsSync)!;
    const { samples } = JSON.parse(await readFile(file, "utf8")) as { samples: unknown[] };
    expect(samples).toHaveLength(8);
  });

  test("probabilities that are not those sampled from stop the run and leave the batch", async () => {
    const batch = { rollouts: [], raw: [], compared: [], shaped: [] };
    await expect(requireFirstRatio(1e-6, folder.path, 2, batch)).resolves.toBeUndefined();
    for (const deviation of [2e-4, Number.NaN]) {
      await expect(requireFirstRatio(deviation, folder.path, 2, batch)).rejects.toMatchObject({ code: "RLHF_RATIO" });
      expect(JSON.parse(await readFile(at("alarm-3.json"), "utf8"))).toMatchObject({ iteration: 3, samples: [] });
    }
  });

  test("settings that cannot be and stores of other models are refused", async () => {
    await expect(train("odd", { minibatch: 3 })).rejects.toThrow(/not a multiple/);
    await expect(train("alone", { baseline: { kind: "group" } })).rejects.toThrow(/samplesPerPrompt/);
    const other = rewardOf("other", (samples) => samples.map(() => 0));
    await expect(train("refused", { baseline: { ...contrast, store: at("store") } }, other)).rejects.toMatchObject({
      code: "RLHF_STORE_MISMATCH",
    });
    await expect(train("hot", { temperature: 2, baseline: { ...contrast, store: at("store") } })).rejects.toThrow(
      /temperature is 2, but 1/,
    );
    const long = [{ ...texts[0]!, line: 7, prompt: "abcdefghijk" }];
    await expect(train("long-prompt", {}, letterReward, long)).rejects.toThrow(
      /row 7: the prompt has 12 tokens; with 8 for the response it exceeds the model's context of 16. Shorten it, lower maxNewTokens/,
    );
  });

  test("a dual clip of 1 or less, which would silence bad actions, is refused", async () => {
    await expect(train("silenced", { dualClip: 1 })).rejects.toMatchObject({ code: "RLHF_OPTIONS" });
  });

  test("is resumed with the baselines it began with only", async () => {
    const store = at("remade");
    await cp(at("store"), store, { recursive: true });
    const baseline = { ...contrast, store };
    await train("begun", { baseline });
    const again = () =>
      ppo({
        ...{ policy, rewards: letterReward, prompts: texts, settings: ppoSettings({ baseline }) },
        ...{ output: at("begun"), run: at("begun-run"), resume: true, overwrite: true },
      });
    expect(await again()).toBe(true);
    // In the same place, of the same models, but other samples.
    await rm(store, { recursive: true });
    const other = { ...sampler, seed: 99 };
    await baselines({ policy, rewards: letterReward, prompts: texts, samples: 4, sampler: other, batch: 32, store });
    await expect(again()).rejects.toMatchObject({ code: "TREFOIL_RESUME" });
  });

  test("a policy that could never end a text is refused", async () => {
    const endless = at("endless");
    await cp(policy, endless, { recursive: true });
    const path = join(endless, "config.json");
    // Left out, it would be the default of Hugging Face, 2.
    await writeFile(path, JSON.stringify({ ...JSON.parse(await readFile(path, "utf8")), eos_token_id: null }));
    const { definition, config } = taskTokenizer();
    const silent = makeTokenizer(definition, { ...config, eos_token: null });
    for (const [name, content] of Object.entries(tokenizerFiles(silent)))
      await writeFile(join(endless, name), JSON.stringify(content));
    const options = { rewards: letterReward, prompts: texts, settings: ppoSettings() };
    await expect(ppo({ ...options, policy: endless, output: at("never"), run: at("never-run") })).rejects.toMatchObject(
      {
        code: "RLHF_TOKENIZER",
        message: expect.stringContaining("responses could never end. Set eos_token in tokenizer_config.json"),
      },
    );
    expect(existsSync(at("never"))).toBe(false);
  });

  test("killed and resumed, metrics and weights are those of a run that was not", async () => {
    const file = at("prompts.jsonl");
    await writeFile(file, prompts.training.map((prompt) => `${JSON.stringify({ prompt })}\n`).join(""));
    const reward = at("reward.mjs");
    await writeFile(
      reward,
      "export default (samples) => samples.map(({ responseText }) => new Set(responseText).size / 8);\n",
    );
    const cli = join(import.meta.dirname, "../../dist/cli.js");
    const flags = (name: string) => [
      ...[
        cli,
        "ppo",
        "--policy",
        policy,
        "--reward",
        reward,
        "--prompts",
        file,
        "--output",
        at(name),
        "--iterations",
        "20",
      ],
      ...[
        "--prompts-per-iteration",
        "8",
        "--minibatch",
        "4",
        "--max-new-tokens",
        "8",
        "--learning-rate",
        "0.001",
        "--checkpoint-every",
        "3",
      ],
      ...[
        "--shaper.kind",
        "running-scale",
        "--kl.adaptive.target",
        "0.5",
        "--kl.adaptive.horizon",
        "100",
        "--no-alarms.enabled",
        "--shown-prompts",
        "0",
        "--quiet",
      ],
    ];
    const start = (name: string, more: string[] = []) =>
      spawn(process.execPath, [...flags(name), ...more], { stdio: ["ignore", "inherit", "inherit"] });
    const ended = (child: ReturnType<typeof spawn>) =>
      new Promise<number | null>((resolve) => child.on("close", resolve));
    expect(await ended(start("once"))).toBe(0);
    const victim = start("twice");
    const gone = ended(victim);
    while (
      (await checkpointSteps(at("twice-run"))).at(-1)! < 6 ||
      (await checkpointSteps(at("twice-run"))).length === 0
    )
      await new Promise((resolve) => setTimeout(resolve, 5));
    victim.kill("SIGKILL");
    expect(await gone).toBe(null);
    expect(existsSync(at("twice"))).toBe(false);
    expect(await ended(start("twice", ["--resume"]))).toBe(0);
    const lines = async (name: string) =>
      (await readMetricsFile(join(at(`${name}-run`), "metrics.jsonl"))).map(({ step, values }) => {
        const kept = Object.entries(values).filter(
          ([key]) => !/^time\/|^tokens_per_s$/.test(key) && !(WALL_CLOCK_FIELDS as readonly string[]).includes(key),
        );
        return { step, ...Object.fromEntries(kept) };
      });
    // Other prompts, though as many, are another run.
    await writeFile(file, prompts.training.map((prompt) => `${JSON.stringify({ prompt, other: 1 })}\n`).join(""));
    const changed = spawn(process.execPath, [...flags("twice"), "--resume", "--overwrite"], {
      stdio: ["ignore", "ignore", "pipe"],
    });
    let refused = "";
    changed.stderr.on("data", (text) => (refused += text));
    expect(await ended(changed)).toBe(1);
    expect(refused).toMatch(/other settings, data or models/);
    expect(await lines("twice")).toEqual(await lines("once"));
    expect(await hashModelFolder(at("twice"))).toBe(await hashModelFolder(at("once")));
  }, 120_000);
});
