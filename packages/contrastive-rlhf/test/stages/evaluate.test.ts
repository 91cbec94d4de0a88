import { existsSync, readFileSync } from "node:fs";
import { cp, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { makeTokenizer, readMetricsFile, tokenizerFiles } from "@trefoil/core";
import { afterAll, beforeAll, describe, expect, test, vi } from "vitest";
import {
  commandJudge,
  compareResponses,
  dpo,
  evaluate,
  type Judge,
  judgeBothOrders,
  ppo,
  RewardSum,
  respond,
  rewardKlFrontier,
  taskTokenizer,
} from "../../src/index.js";
import { winTieLoseByPrompt } from "../../src/stages/evaluate.js";
import {
  letterReward,
  ppoSettings,
  rewardOf,
  sampler,
  temporaryFolder,
  texts,
  tokenizer,
  training,
  trainSmallPolicy,
} from "./small.js";

describe("evaluation", () => {
  let folder: Awaited<ReturnType<typeof temporaryFolder>>;
  let policy: string;
  const at = (name: string) => join(folder.path, name);
  beforeAll(async () => {
    folder = await temporaryFolder();
    policy = await trainSmallPolicy(folder.path);
  });
  afterAll(async () => await folder[Symbol.asyncDispose]());
  const shared = { prompts: texts, samples: 2, sampler, batch: 16 };

  test("a policy ties with itself: the random numbers are the same", async () => {
    const { all, lengthMatched, meanReward, difference } = await evaluate({
      policy,
      against: policy,
      by: { rewards: letterReward },
      ...shared,
    });
    expect(all).toMatchObject({ win: 0, tie: 48, lose: 0, winRate: 0.5 });
    expect(lengthMatched.tie).toBe(48);
    expect(meanReward!.policy).toBe(meanReward!.against);
    expect(difference).toBeUndefined();
  });

  test("two responses to a prompt that end alike are not twice the evidence", () => {
    const twice = (values: number[]) => values.flatMap((value) => [value, value]);
    const [a, b] = [Array.from({ length: 40 }, (_, i) => Number(i % 4 > 0)), Array<number>(40).fill(0.5)];
    const [once, both] = [winTieLoseByPrompt(a, b, 1), winTieLoseByPrompt(twice(a), twice(b), 2)];
    expect([once.win, both.win, both.lose]).toEqual([30, 60, 20]);
    expect(both.interval[0]).toBeCloseTo(once.interval[0], 2);
    expect(both.interval[1]).toBeCloseTo(once.interval[1], 2);
  });

  test("rewards decide; pairs of like length are counted apart", async () => {
    const own = await respond(policy, shared);
    const other = own.map((sample) => ({ ...sample, responseText: "", response: sample.response.slice(0, 1) }));
    const lengths = rewardOf("length", (samples) => samples.map(({ responseText }) => responseText.length));
    const { all, lengthMatched } = await compareResponses(own, other, { rewards: lengths }, 2);
    expect(all.win).toBe(own.filter(({ responseText }) => responseText.length > 0).length);
    expect(lengthMatched.win + lengthMatched.tie + lengthMatched.lose).toBe(
      own.filter(({ response }) => response.length === 1).length,
    );
  });

  test("responses to other rows are not compared", async () => {
    const own = await respond(policy, shared);
    const by = { rewards: letterReward };
    await expect(compareResponses(own, [...own].reverse(), by, 2)).rejects.toThrow(/response 1 answers another row/);
    const others = { ...shared, againstPrompts: [...texts].reverse() };
    await expect(evaluate({ policy, against: policy, by, ...others })).rejects.toMatchObject({ code: "RLHF_OPTIONS" });
  });

  test("a judge is asked in both orders; one who always says A decides nothing", async () => {
    const longer: Judge = async ({ a, b }) => (a.length > b.length ? "A" : "B");
    expect(await judgeBothOrders(longer, "p", "long", "x")).toBe(1);
    expect(await judgeBothOrders(longer, "p", "x", "long")).toBe(-1);
    expect(await judgeBothOrders(async () => "A", "p", "x", "y")).toBe(0);
  });

  test("a program as judge", async () => {
    const script = at("judge.mjs");
    await writeFile(
      script,
      `let text = ""; for await (const part of process.stdin) text += part;
      const { prompt, a, b } = JSON.parse(text); console.log(prompt, a.length > b.length ? "[[A]]" : "[[B]]");`,
    );
    const command = `"${process.execPath}" "${script}"`;
    expect(await judgeBothOrders(commandJudge(command), "p", "long", "x")).toBe(1);
    await expect(commandJudge("echo maybe")({ prompt: "p", a: "x", b: "y" })).rejects.toThrow(
      /its last word must be A, B or tie/,
    );
    await expect(commandJudge("exit 3")({ prompt: "p", a: "x", b: "y" })).rejects.toThrow(/status 3/);
  });

  test("a program as judge is stopped with what it started", async () => {
    const controller = new AbortController();
    const mark = at("judge-pid");
    const judge = commandJudge(`sleep 60 & echo $! > "${mark}"; wait; echo A`, controller.signal);
    const asked = judge({ prompt: "p", a: "x", b: "y" });
    await vi.waitUntil(() => existsSync(mark) && readFileSync(mark, "utf8").endsWith("\n"), { timeout: 10_000 });
    controller.abort();
    await expect(asked).rejects.toMatchObject({ name: "AbortError" });
    const pid = Number(readFileSync(mark, "utf8"));
    // A killed process that nobody has waited for yet is still listed.
    const gone = () => {
      try {
        return readFileSync(`/proc/${pid}/stat`, "utf8").includes(") Z ");
      } catch {
        return true;
      }
    };
    await vi.waitUntil(gone, { timeout: 10_000 });
  });

  test("a judge decides between policies", async () => {
    const own = await respond(policy, shared);
    const other = own.map((sample, i) =>
      i % 3 === 0 ? sample : { ...sample, responseText: `${sample.responseText}xx` },
    );
    const shorter: Judge = async ({ a, b }) => (a.length === b.length ? "tie" : a.length < b.length ? "A" : "B");
    const { all, meanReward, pairs } = await compareResponses(own, other, { judge: shorter }, 2);
    expect(all).toMatchObject({ win: 32, tie: 16, lose: 0 });
    expect(all.interval[0]).toBeGreaterThan(0.5);
    expect(meanReward).toBeUndefined();
    expect(pairs.map(({ outcome }) => outcome).slice(0, 3)).toEqual([0, 1, 1]);
    const first: Judge = async () => "A";
    expect((await compareResponses(own, other, { judge: first }, 2)).all).toMatchObject({ win: 0, tie: 48, lose: 0 });
  });

  test("a reward model does not judge a policy of another tokenizer", async () => {
    const { definition, config } = taskTokenizer();
    const foreign = at("foreign");
    await cp(policy, foreign, { recursive: true });
    for (const [name, content] of Object.entries(tokenizerFiles(makeTokenizer(definition, config))))
      await writeFile(join(foreign, name), JSON.stringify(content));
    const reader = { name: "reader", hash: "reader", tokenizer: tokenizer.hash, score: async () => [] };
    using rewards = new RewardSum([{ reward: reader, weight: 1 }]);
    await expect(evaluate({ policy, against: foreign, by: { rewards }, ...shared })).rejects.toMatchObject({
      code: "RLHF_MODEL",
      message: expect.stringMatching(/foreign has another tokenizer than the reward model reader/),
    });
  });

  test("reward against KL over checkpoints", async () => {
    const settings = ppoSettings({ iterations: 4, checkpointEvery: 2, learningRate: 3e-3 });
    await ppo({ policy, rewards: letterReward, prompts: texts, settings, output: at("ppo"), run: at("ppo-run") });
    const points = await rewardKlFrontier({ policy, run: at("ppo-run"), rewards: letterReward, ...shared });
    expect(points.map(({ iteration }) => iteration)).toEqual([0, 2, 4]);
    expect(points[0]!.kl).toBe(0);
    expect(points[2]!.kl).not.toBe(0);
    const greedy = { ...shared.sampler, temperature: 0 };
    await expect(
      rewardKlFrontier({ policy, run: at("ppo-run"), rewards: letterReward, ...shared, sampler: greedy }),
    ).rejects.toMatchObject({ code: "RLHF_OPTIONS", message: expect.stringContaining("above 0") });
    await expect(
      rewardKlFrontier({ policy: at("ppo"), run: at("ppo-run"), rewards: letterReward, ...shared }),
    ).rejects.toMatchObject({ code: "RLHF_MODEL", message: expect.stringContaining("started from another policy") });
    await expect(rewardKlFrontier({ policy, run: at("nothing"), rewards: letterReward, ...shared })).rejects.toThrow(
      /no checkpoints/,
    );
  });

  test("DPO starts at log 2 and learns its pairs", async () => {
    const preferences = texts.map((text) => ({
      ...text,
      chosen: text.prompt.slice(0, 2),
      rejected: "kk",
      margin: undefined,
    }));
    await dpo({
      policy,
      preferences,
      beta: 0.1,
      form: { kind: "sigmoid" },
      settings: training(30),
      output: at("dpo"),
      run: at("dpo-run"),
    });
    const metrics = (await readMetricsFile(join(at("dpo-run"), "metrics.jsonl"))).map(({ values }) => values);
    expect(metrics[0]!.loss).toBeCloseTo(Math.LN2, 5);
    expect(metrics[0]!["rewards/margins"]).toBeCloseTo(0, 5);
    expect(metrics.at(-1)!.loss).toBeLessThan(0.5);
    expect(metrics.at(-1)!["rewards/accuracies"]).toBeGreaterThan(0.8);
  });
});
