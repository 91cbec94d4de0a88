import { compile } from "@trefoil/core";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import {
  EpisodeEncoder,
  OpenPolicy,
  type ResponseBatch,
  responseBatch,
  responseLogProbs,
  Sampler,
  statesRead,
} from "../../src/index.js";
import { sampler as settings, temporaryFolder, texts, tokenizer, trainSmallPolicy } from "./small.js";

describe("sampling", () => {
  let folder: Awaited<ReturnType<typeof temporaryFolder>>;
  let policy: OpenPolicy;
  let prompts: Int32Array[];
  beforeAll(async () => {
    folder = await temporaryFolder();
    policy = await OpenPolicy.open(await trainSmallPolicy(folder.path));
    const encoder = new EpisodeEncoder(tokenizer, policy.eosTokenIds, 16);
    prompts = encoder.prompts(texts, 8).map(({ tokens }) => tokens);
  });
  afterAll(async () => {
    policy[Symbol.dispose]();
    await folder[Symbol.asyncDispose]();
  });

  const draw = async (batch: number, order: readonly number[], extra: object = {}) => {
    using sampler = new Sampler(policy.model, batch, 6, settings.maxNewTokens);
    const requests = order.map((i) => ({
      prompt: prompts[i % prompts.length]!,
      sample: Math.floor(i / prompts.length),
    }));
    const drawn = await sampler.sample(requests, { ...settings, eosTokenIds: policy.eosTokenIds, stream: 1, ...extra });
    return new Map(order.map((i, at) => [i, [...drawn[at]!.tokens].join()]));
  };

  test("a response depends on prompt, sample and seed, not on the batch or its order", async () => {
    const order = Array.from({ length: 48 }, (_, i) => i);
    const wide = await draw(48, order);
    const narrow = await draw(5, [...order].reverse());
    for (const i of order) expect(narrow.get(i)).toBe(wide.get(i));
    // Few requests in a large batch move to smaller ones at once.
    const few = await draw(64, order.slice(0, 5));
    for (const i of order.slice(0, 5)) expect(few.get(i)).toBe(wide.get(i));
    const other = await draw(48, order, { seed: 4 });
    expect(order.filter((i) => other.get(i) === wide.get(i)).length).toBeLessThan(10);
    // Two samples of one prompt are two draws.
    expect(order.slice(0, 24).some((i) => wide.get(i) !== wide.get(i + 24))).toBe(true);
  });

  test("draws follow the probabilities", async () => {
    const count = 2000;
    using sampler = new Sampler(policy.model, 100, 6, 1);
    const requests = Array.from({ length: count }, (_, sample) => ({ prompt: prompts[0]!, sample }));
    const drawn = await sampler.sample(requests, {
      ...settings,
      maxNewTokens: 1,
      temperature: 0.7,
      eosTokenIds: [],
      stream: 0,
    });
    const seen = new Map<number, number>();
    for (const { tokens } of drawn) seen.set(tokens[0]!, (seen.get(tokens[0]!) ?? 0) + 1);
    const candidates = [...seen.keys()];
    const episodes = candidates.map((token) => ({ prompt: prompts[0]!, response: Int32Array.of(token) }));
    const run = compile(
      (batch: ResponseBatch) => responseLogProbs(policy.model, batch, 0.7, statesRead(policy.model, batch)).logProbs,
    );
    const logProbs = await (await run(responseBatch(episodes))).data();
    candidates.forEach((token, i) => {
      const p = Math.exp(logProbs[i]!);
      // Five standard errors.
      expect(Math.abs(seen.get(token)! / count - p)).toBeLessThan(5 * Math.sqrt((p * (1 - p)) / count) + 1 / count);
    });
  });

  test("greedy takes the likeliest token", async () => {
    const greedy = await draw(4, [0, 1, 2, 3], { temperature: 0, seed: 0 });
    expect(await draw(3, [0, 1, 2, 3], { temperature: 0, seed: 99 })).toEqual(greedy);
  });

  test("an empty prompt and one that is too long are refused", async () => {
    using sampler = new Sampler(policy.model, 2, 6, 8);
    await expect(
      sampler.sample([{ prompt: new Int32Array(), sample: 0 }], { ...settings, eosTokenIds: [], stream: 0 }),
    ).rejects.toThrow(/empty/);
    expect(() => new Sampler(policy.model, 2, 12, 8)).toThrow(/16 positions/);
  });
});
