import { compile, gatherLast, logSoftmax, multiply, sum, type Tensor, tensor, valueAndGrad } from "@trefoil/core";
import { expect, test } from "vitest";
import {
  type Episode,
  type EpisodeBatch,
  endBatch,
  entropy,
  loadScoreModel,
  OpenPolicy,
  perEpisode,
  perToken,
  type ResponseBatch,
  responseBatch,
  responseLogProbs,
  statesRead,
} from "../../src/index.js";
import { temporaryFolder, trainSmallPolicy } from "../stages/small.js";

const episode = (prompt: string, response: string): Episode => ({
  prompt: Int32Array.from(Buffer.from(prompt)),
  response: Int32Array.from(Buffer.from(response)),
});
// Prompts that begin alike, one that begins another, one twice, and one that nothing is like.
const episodes = [
  episode("abcd=", "dcba"),
  episode("abcf=", "fcba"),
  episode("ab", "x"),
  episode("abcd=", "dcbadcba"),
  episode("k", "jij"),
];

test("episodes that share beginnings have the log-probabilities of each alone", async () => {
  await using folder = await temporaryFolder();
  using policy = await OpenPolicy.open(await trainSmallPolicy(folder.path, 5));
  const { model } = policy;
  const together = compile((batch: ResponseBatch) => {
    const { logProbs, all } = responseLogProbs(model, batch, 0.7, statesRead(model, batch));
    return { logProbs, entropy: entropy(all) };
  });
  const batch = responseBatch(episodes);
  // "abcd=", "f=" and "k" once, and all but the last tokens of responses: 23, in steps of 8.
  expect(batch.tokens.shape).toEqual([1, 24]);
  const result = await together(batch);
  const logProbs = perEpisode((await result.logProbs.data()) as Float32Array, episodes);
  const entropies = perEpisode((await result.entropy.data()) as Float32Array, episodes);
  const flat = await perToken(batch, logProbs).data();
  expect([...flat]).toEqual([...(await result.logProbs.data())]);

  const alone = compile((tokens: Tensor, targets: Tensor) => {
    const logits = model.logits(tokens).mul(1 / 0.7);
    return { logProbs: gatherLast(logSoftmax(logits), targets), entropy: entropy(logits) };
  });
  for (const [i, { prompt, response }] of episodes.entries()) {
    const all = Int32Array.of(...prompt, ...response);
    const shape = [1, all.length - 1];
    const one = await alone(tensor(all.subarray(0, -1), { shape }), tensor(all.subarray(1), { shape: [...shape, 1] }));
    const [own, spread] = [await one.logProbs.data(), await one.entropy.data()];
    for (let t = 0; t < response.length; t++) {
      // Rounding of sums in another order.
      expect(Math.abs(logProbs[i]![t]! - own[prompt.length - 1 + t]!)).toBeLessThan(1e-5);
      expect(Math.abs(entropies[i]![t]! - spread[prompt.length - 1 + t]!)).toBeLessThan(1e-5);
    }
  }
});

test("gradients through shared beginnings are those of each alone, added up", async () => {
  await using folder = await temporaryFolder();
  using policy = await OpenPolicy.open(await trainSmallPolicy(folder.path, 5));
  const { model } = policy;
  const parameters = model.parameters();
  const together = compile((batch: ResponseBatch, weights: Tensor) => {
    const total = () => sum(multiply(responseLogProbs(model, batch, 1, statesRead(model, batch)).logProbs, weights));
    return valueAndGrad(total, parameters).grads;
  });
  const weights = episodes.map(({ response }, i) => Float32Array.from(response, (_, t) => Math.sin(3 * i + t)));
  const batch = responseBatch(episodes);
  const own = await together(batch, perToken(batch, weights));

  const alone = compile((tokens: Tensor, targets: Tensor, weight: Tensor) => {
    const total = () => sum(multiply(gatherLast(logSoftmax(model.logits(tokens)), targets), weight));
    return valueAndGrad(total, parameters).grads;
  });
  const expected = parameters.map(({ size }) => new Float64Array(size));
  for (const [i, { prompt, response }] of episodes.entries()) {
    const all = Int32Array.of(...prompt, ...response);
    const shape = [1, all.length - 1, 1];
    const weight = Float32Array.of(...new Float32Array(prompt.length - 1), ...weights[i]!);
    const grads = await alone(
      tensor(all.subarray(0, -1), { shape: shape.slice(0, 2) }),
      tensor(all.subarray(1), { shape }),
      tensor(weight, { shape }),
    );
    for (const [p, grad] of grads.entries())
      for (const [j, value] of (await grad.data()).entries()) expected[p]![j]! += value;
  }
  for (const [p, grad] of own.entries()) {
    const largest = expected[p]!.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
    expect(largest).toBeGreaterThan(0);
    // Rounding of sums in another order.
    for (const [j, value] of (await grad.data()).entries())
      expect(Math.abs(value - expected[p]![j]!)).toBeLessThan(2e-5 * largest);
  }
});

test("scores at last tokens are those of padded rows; what is empty reads nothing's", async () => {
  await using folder = await temporaryFolder();
  const { model } = await loadScoreModel(await trainSmallPolicy(folder.path, 5), 1);
  using _ = model;
  const shared = compile((batch: EpisodeBatch) => model.scores(batch));
  const scores = await (await shared(endBatch(episodes, 8))).data();
  expect(scores).toHaveLength(8);
  const padded = new Int32Array(5 * 16);
  for (const [row, { prompt, response }] of episodes.entries()) padded.set([...prompt, ...response], row * 16);
  const index = episodes.map(({ prompt, response }, row) => row * 16 + prompt.length + response.length - 1);
  const rows = compile((tokens: Tensor, at: Tensor) => model.scoresAt(tokens, at));
  const expected = await (await rows(tensor(padded, { shape: [5, 16] }), tensor(Int32Array.from(index)))).data();
  // Rounding of sums in another order.
  for (const i of episodes.keys()) expect(Math.abs(scores[i]! - expected[i]!)).toBeLessThan(1e-5);
});
