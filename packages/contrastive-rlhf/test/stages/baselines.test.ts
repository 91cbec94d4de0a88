import { appendFile, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { createProgress } from "@trefoil/core";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { BaselineStore, baselines, describeBaselines, EpisodeEncoder, promptTexts } from "../../src/index.js";
import {
  letterReward,
  rewardOf,
  sampler,
  prompts as taskPrompts,
  temporaryFolder,
  texts,
  tokenizer,
  trainSmallPolicy,
} from "./small.js";

describe("baseline store", () => {
  let folder: Awaited<ReturnType<typeof temporaryFolder>>;
  let policy: string;
  const keys = new EpisodeEncoder(tokenizer, [257], 16)
    .prompts(texts, 8)
    .map((prompt) => letterReward.promptKey(prompt));
  beforeAll(async () => {
    folder = await temporaryFolder();
    policy = await trainSmallPolicy(folder.path);
  });
  afterAll(async () => await folder[Symbol.asyncDispose]());

  const at = (name: string) => join(folder.path, name);
  const make = (
    store: string,
    samples: number,
    extra: Partial<Omit<Parameters<typeof baselines>[0], "samples" | "store">> = {},
  ) =>
    baselines({
      policy,
      rewards: letterReward,
      prompts: texts,
      samples,
      sampler,
      batch: 16,
      store: at(store),
      ...extra,
    });
  const all = async (store: string, k: number) => {
    const opened = await BaselineStore.load(at(store));
    return keys.map((key) => opened.samples(key, k));
  };

  test("does not depend on batch or order, and is extended without redoing", async () => {
    const result = await make("whole", 6);
    expect(result).toMatchObject({ completed: true, prompts: 24, drawn: 144 });
    expect(describeBaselines(result, 6).text).toMatch(/ρ = \d/);
    await make("narrow", 6, { batch: 7, prompts: [...texts].reverse() });
    expect(await all("narrow", 6)).toEqual(await all("whole", 6));
    await make("grown", 2);
    const before = await readFile(join(at("grown"), "samples.jsonl"), "utf8");
    expect(await make("grown", 6)).toMatchObject({ drawn: 96 });
    expect((await readFile(join(at("grown"), "samples.jsonl"), "utf8")).startsWith(before)).toBe(true);
    expect(await all("grown", 6)).toEqual(await all("whole", 6));
    expect(await make("grown", 6)).toMatchObject({ drawn: 0 });
  });

  test("stopped, torn in the middle of a line, and resumed: no duplicate, no gap", async () => {
    await make("uninterrupted", 4);
    const controller = new AbortController();
    let batches = 0;
    const stopping = rewardOf("letters", async (samples) => {
      if (++batches === 3) controller.abort();
      return (await letterReward.score(samples as Parameters<typeof letterReward.score>[0])).total;
    });
    expect(await make("killed", 4, { rewards: stopping, signal: controller.signal })).toMatchObject({
      completed: false,
      drawn: 48,
    });
    await appendFile(join(at("killed"), "samples.jsonl"), '{"prompt_id":3,"prompt_sha":"ab');
    expect(await make("killed", 4)).toMatchObject({ completed: true, drawn: 48 });
    expect(await all("killed", 4)).toEqual(await all("uninterrupted", 4));
    const lines = (await readFile(join(at("killed"), "samples.jsonl"), "utf8")).trim().split("\n");
    const rewards = lines.reduce(
      (count, line) => count + (JSON.parse(line) as { rewards: number[] }).rewards.length,
      0,
    );
    expect(rewards).toBe(96);
  });

  test("says of ρ only what the samples tell", async () => {
    const one = describeBaselines(await make("one", 2, { prompts: texts.slice(0, 1) }), 2);
    expect(one.text).toMatch(/^1 prompt, 2 samples each .* ρ needs two prompts or more\.$/);
    const same = rewardOf("same", (samples) => samples.map(() => 0.1));
    const result = await make("same", 3, { rewards: same });
    expect(result.rho).toBeNaN();
    expect(describeBaselines(result, 3)).toEqual({ text: expect.stringMatching(/All rewards are the same/) });
  });

  test("rows of one prompt have baselines of their own where a reward may read the row", async () => {
    const prompts = [1, 5].map((worth) => ({ ...texts[0]!, row: { ...texts[0]!.row, worth } }));
    const rewards = rewardOf("worth", (samples) => samples.map(({ row }) => row.worth as number));
    expect(await make("rows", 2, { prompts, rewards })).toMatchObject({ prompts: 2, drawn: 4, meanReward: 3 });
    const store = await BaselineStore.load(at("rows"));
    const [one, five] = new EpisodeEncoder(tokenizer, [257], 16)
      .prompts(prompts, 8)
      .map((prompt) => store.samples(rewards.promptKey(prompt), 2));
    expect(five).toEqual({ ...one, rewards: [5, 5] });
    const reordered = prompts.map((prompt) => ({ ...prompt, row: { worth: prompt.row.worth, ...texts[0]!.row } }));
    expect(await make("rows", 2, { prompts: reordered, rewards })).toMatchObject({ drawn: 0 });
  });

  test("responses of another store are its tokens; of other prompts it has none, and says so", async () => {
    await make("first", 3);
    const responsesFrom = at("first");
    const counted = rewardOf("tokens", (samples) =>
      samples.map((sample) => (sample as unknown as { response: Int32Array }).response.length),
    );
    await make("second", 3, { rewards: counted, responsesFrom });
    const second = await BaselineStore.load(at("second"));
    for (const [i, { tokens }] of (await all("first", 3)).entries())
      expect(second.samples(keys[i]!, 3)).toMatchObject({ tokens, rewards: tokens.map(({ length }) => length) });
    const others = promptTexts(taskPrompts.heldOut);
    await expect(make("third", 3, { prompts: others, responsesFrom })).rejects.toMatchObject({
      code: "RLHF_STORE_MISMATCH",
      message: expect.stringMatching(/has none of the 24 responses that are wanted: it was made for other prompts/),
    });
    let told = "";
    const progress = createProgress({ quiet: true, stream: { write: (text) => (told += text) } });
    await make("fourth", 3, { prompts: [...texts, ...others], responsesFrom, progress });
    expect(told).toMatch(/does not have 24 of the 96 responses that are wanted: these are sampled/);
    expect(await all("fourth", 3)).toEqual(await all("first", 3));
  });

  test("is added to by one at a time", async () => {
    const both = await Promise.allSettled([make("shared", 4), make("shared", 4)]);
    const refused = both.flatMap((each) => (each.status === "rejected" ? [each.reason] : []));
    expect(refused).toEqual([expect.objectContaining({ code: "RUN_DIRECTORY_LOCKED" })]);
    expect(await make("shared", 4)).toMatchObject({ completed: true, drawn: 0 });
    await make("reference", 4);
    expect(await all("shared", 4)).toEqual(await all("reference", 4));
  });

  test("refuses other models, samplers and prompts, and damage", async () => {
    await make("mine", 2);
    await expect(
      make("mine", 2, { rewards: rewardOf("other", (samples) => samples.map(() => 0)) }),
    ).rejects.toMatchObject({
      code: "RLHF_STORE_MISMATCH",
      message: expect.stringContaining("reward"),
    });
    const store = await BaselineStore.load(at("mine"));
    expect(() => store.require({ ...store.identity, sft: "x" })).toThrow(/SFT policy is another/);
    const hot = { ...store.identity, sampler: { ...store.identity.sampler, temperature: 2 } };
    expect(() => store.require(hot)).toThrow(/temperature is 2, but 1 in the store/);
    expect(() => store.samples("unknown", 1)).toThrow(/does not know one of the prompts/);
    expect(() => store.samples(keys[0]!, 3)).toThrow(/has 2 samples of a prompt, fewer than the 3/);
    await expect(BaselineStore.load(at("nothing"))).rejects.toThrow(/holds no baselines/);
    await writeFile(join(at("one"), "store.json"), '{ "format": "contrastive-rlhf baselines 1" }');
    await expect(BaselineStore.load(at("one"))).rejects.toThrow(/made by an earlier version/);
    const file = join(at("mine"), "samples.jsonl");
    const [first] = (await readFile(file, "utf8")).split("\n");
    await writeFile(file, `${first}\n${first}\n`);
    await expect(BaselineStore.load(at("mine"))).rejects.toThrow(/begins at sample 0 of a prompt that has 2/);
  });
});
