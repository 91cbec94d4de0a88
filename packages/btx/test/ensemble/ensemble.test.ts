import { readFileSync } from "node:fs";
import { emptyBatch, generate, Llama, logSoftmax, type TokenBatch, tensor } from "@trefoil/core";
import { describe, expect, it } from "vitest";
import {
  distanceWeights,
  ensembleMeans,
  ensembleNats,
  ensembleWeights,
  generateFromEnsemble,
  geometricNats,
  keepLargest,
  meanPosterior,
  mixGeometrically,
  mixProbabilities,
  Posterior,
  TfIdf,
  windowNats,
} from "../../src/index.js";
import { tinySizes, tokenizer } from "../stages/tiny.js";

const fixture = new URL("../../../../tests/conformance/fixtures/btx.json", import.meta.url);
const { ensemble: golden } = JSON.parse(readFileSync(fixture, "utf8"));
const expectClose = (found: ArrayLike<number>, expected: readonly number[]) =>
  expected.forEach((value, i) => {
    expect(found[i]).toBeCloseTo(value, 12);
  });

const config = {
  ...tinySizes,
  vocabSize: tokenizer.vocabSize,
  headDim: 8,
  rmsNormEps: 1e-5,
  ropeTheta: 1e4,
  tieWordEmbeddings: true,
  initializerRange: 0.25,
};

function windowOf(text: string): TokenBatch {
  const ids = tokenizer.encode(text);
  const batch = emptyBatch(1, ids.length - 1, false);
  batch.tokens.set(ids.subarray(0, -1));
  batch.targets.set(ids.subarray(1));
  return batch;
}

describe("weights", () => {
  it("reproduces the reference's weights and mixtures", () => {
    const weights = distanceWeights(golden.squaredDistances, golden.temperature);
    expectClose(weights, golden.weights);
    expectClose(keepLargest(weights, 2), golden.top2Weights);
    expectClose(mixProbabilities(keepLargest(weights, 2), golden.probabilities), golden.top2Mixture);
    expectClose(mixProbabilities([0, 0.5, 0.5, 0], golden.probabilities), golden.top2Uniform);
    const logs = golden.probabilities.map((row: number[]) => row.map(Math.log));
    expectClose(mixGeometrically(keepLargest(weights, 2), logs), golden.top2Geometric);
  });

  it("updates the posterior as the reference, and far below what a double holds", () => {
    const posterior = new Posterior(2, golden.prior);
    for (const [t, likelihoods] of golden.likelihoods.entries()) {
      posterior.observe(likelihoods.map(Math.log));
      expectClose(posterior.weights, golden.posteriors[t]);
    }
    const long = new Posterior(2);
    for (let t = 0; t < 10_000; t++) long.observe([-1, -1]);
    expect(long.weights).toEqual([0.5, 0.5]);
  });

  it("keeps the first of equal weights", () => {
    expect(keepLargest([1, 1, 1], 2)).toEqual([0.5, 0.5, 0]);
  });
});

it("computes tf-idf in closed form", () => {
  // idf: "a" in both of two documents, the others in one; vectors have length 1.
  const tfIdf = new TfIdf([["a b"], ["a 12"]]);
  const rare = Math.log(3 / 2) + 1;
  const norm = Math.hypot(1, rare);
  const [b, number] = tfIdf.cosines("b");
  expect(b).toBeCloseTo(rare / norm, 12);
  expect(number).toBe(0);
  // A number is one term, whatever its digits.
  expect(tfIdf.squaredDistances("a 777")[1]).toBeCloseTo(0, 12);
  expect(tfIdf.squaredDistances("a 777")[0]).toBeCloseTo(2 - 2 / norm ** 2, 12);
  expect(tfIdf.cosines("unknown")).toEqual([0, 0]);
});

describe("ensembles", () => {
  const models = [new Llama(config, 1), new Llama(config, 2)];
  const batches = [windowOf("34+52=86\n"), windowOf("12-01=11\n")];

  it("gives a token the mean of its probabilities, under bayes weighted by those before", async () => {
    const nats = [await windowNats(models[0]!, batches), await windowNats(models[1]!, batches)];
    const context = { context: 4, tokenizer };
    const uniform = ensembleNats(nats, batches, { rule: "uniform", ...context });
    const bayes = ensembleNats(nats, batches, { rule: "bayes", ...context });
    const p = (model: number, at: number) => Math.exp(-nats[model]![at]!);
    expect(Math.exp(-uniform[3]!)).toBeCloseTo((p(0, 3) + p(1, 3)) / 2, 6);
    // p(x_t | x_<t) of a mixture of models is a ratio of sums over whole beginnings.
    const beginning = (model: number, from: number, to: number) =>
      Array.from({ length: to - from }, (_, i) => p(model, from + i)).reduce((a, b) => a * b, 1);
    // The second window starts at 8 and knows nothing of the first.
    for (const from of [0, 8]) {
      const joint = (to: number) => beginning(0, from, to) + beginning(1, from, to);
      for (let i = 0; i < 8; i++)
        expect(Math.exp(-bayes[from + i]!)).toBeCloseTo(joint(from + i + 1) / joint(from + i), 6);
    }
    const alone = ensembleNats([nats[0]!, nats[0]!], batches, { rule: "bayes", topK: 1, ...context });
    nats[0]!.forEach((value, i) => {
      expect(alone[i]).toBeCloseTo(value, 5);
    });
    const posterior = meanPosterior(nats, batches);
    expect(posterior[0]! + posterior[1]!).toBeCloseTo(1, 12);
  });

  it("gives a token the geometric mean of its probabilities, over models of different widths", async () => {
    const wider = new Llama({ ...config, hiddenSize: 32, headDim: 16, tieWordEmbeddings: false }, 3);
    const three = [...models, wider];
    const nats = [];
    for (const model of three) nats.push(await windowNats(model, batches));
    const weights = ensembleWeights(nats, batches, { rule: "bayes", topK: 2, context: 4, tokenizer });
    const found = await geometricNats(three, batches, weights);
    const logs: Float32Array[][] = [];
    for (const { tokens, batch, sequence } of batches) {
      const ids = tensor(tokens, { shape: [batch, sequence] });
      logs.push(
        await Promise.all(three.map(async (model) => (await logSoftmax(model.logits(ids)).data()) as Float32Array)),
      );
    }
    for (const [window, { targets }] of batches.entries()) {
      for (let i = 0; i < 8; i++) {
        const rows = logs[window]!.map((all) => all.subarray(i * config.vocabSize, (i + 1) * config.vocabSize));
        const mixed = mixGeometrically(
          weights.map((own) => own[8 * window + i]!),
          rows,
        );
        expect(mixed.reduce((a, b) => a + b, 0)).toBeCloseTo(1, 12);
        expect(Math.exp(-found[8 * window + i]!)).toBeCloseTo(mixed[targets[i]!]!, 6);
      }
    }
  });

  it("generates what its only model would, and what the mixed probabilities say", async () => {
    const prompt = tokenizer.encode("12+34=");
    const [alone] = await generate(models[0]!, [prompt], { maxNewTokens: 6, temperature: 0 });
    const both = [models[0]!, models[0]!];
    for (const mean of ensembleMeans)
      for (const weights of [[1, 0], [0.5, 0.5], undefined])
        expect(
          await generateFromEnsemble(both, prompt, { maxNewTokens: 6, mean, ...(weights && { weights }) }),
        ).toEqual([...alone!.tokens]);
    const tokens = await generateFromEnsemble(models, prompt, { maxNewTokens: 4 });
    expect(await generateFromEnsemble(models, prompt, { maxNewTokens: 4, temperature: 1e-5 })).toEqual(tokens);
    // Each token is the likeliest of all under the same ensemble scored without a cache.
    const text = [...prompt, ...tokens];
    const scoreOf = async (ids: number[]) => {
      const window = emptyBatch(1, ids.length - 1, false);
      window.tokens.set(ids.slice(0, -1));
      window.targets.set(ids.slice(1));
      const nats = [await windowNats(models[0]!, [window]), await windowNats(models[1]!, [window])];
      return ensembleNats(nats, [window], { rule: "bayes", context: 1, tokenizer }).at(-1)!;
    };
    const last = await scoreOf(text);
    for (let other = 0; other < 256; other += 17)
      expect(await scoreOf([...text.slice(0, -1), other])).toBeGreaterThanOrEqual(last - 1e-5);
    await expect(generateFromEnsemble(models, prompt, { maxNewTokens: 60 })).rejects.toThrow("64 positions");
  });
});
