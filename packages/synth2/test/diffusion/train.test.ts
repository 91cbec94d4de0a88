import { join } from "node:path";
import { checkpointSteps, trainBpe } from "@trefoil/core";
import { expect, it } from "vitest";
import {
  captionsOf,
  denoiserFor,
  encodePairs,
  generatorFor,
  measureFaithfulness,
  OnTheFlyDataset,
  openPictureGenerator,
  pictureSampler,
  pictureSeed,
  SyntheticDataset,
  samplingSchema,
  synthesize,
  trainDenoiser,
  UNKNOWN_CODE,
  VqImageTokenizer,
} from "../../src/index.js";
import { temporaryFolder } from "../folder.js";
import { generatorSizes, smallSettings, stopAtCheckpoint, trainSmallTokenizer, world } from "../pipeline/small.js";

async function trainSmallDenoiser(tokenizer: string, output: string, steps: number, extra: object = {}) {
  using images = await VqImageTokenizer.open(tokenizer);
  const text = await trainBpe(await captionsOf(world), { vocabSize: 320 });
  const pairs = await encodePairs(world, images, text, generatorSizes.maxTextTokens);
  const architecture = generatorFor(generatorSizes, images, text.vocabSize);
  return await trainDenoiser({
    ...{ pairs, evaluation: { pairs, every: steps }, text, images, dropCondition: 0.1, settings: smallSettings(steps) },
    architecture: denoiserFor(architecture, { target: "v", timesteps: 100 }),
    ...{ output, run: `${output}-run` },
    ...extra,
  });
}

it("learns, resumes with the same weights, and draws for every command as a masked generator does", async () => {
  const folder = await temporaryFolder();
  const at = (name: string) => join(folder, name);
  await trainSmallTokenizer(at("tokenizer"), 20);
  const short = await trainSmallDenoiser(at("tokenizer"), at("short"), 1);
  const whole = await trainSmallDenoiser(at("tokenizer"), at("whole"), 60);
  // Nothing learned is an error of 1: the mean of velocities of standardised embeddings.
  expect(short.evaluation!.loss).toBeGreaterThan(0.9);
  expect(whole.evaluation!.loss).toBeLessThan(0.75 * short.evaluation!.loss!);
  using stop = stopAtCheckpoint(at("stopped-run"));
  const { signal } = stop;
  expect((await trainSmallDenoiser(at("tokenizer"), at("stopped"), 60, { signal })).completed).toBe(false);
  expect(await checkpointSteps(at("stopped-run"))).not.toHaveLength(0);
  expect((await trainSmallDenoiser(at("tokenizer"), at("stopped"), 60, { resume: true })).hash).toBe(whole.hash);

  using images = await VqImageTokenizer.open(at("tokenizer"));
  const generator = await openPictureGenerator(at("whole"));
  expect(generator.hash).toBe(whole.hash);
  const sampling = samplingSchema.parse({});
  const diffusion = { steps: 4, eta: 0, guidance: 1, guidanceRamp: false, snap: false };
  const captions = ["a red circle", "two blue squares", "a small star"];
  const rows = captions.map((caption, i) => ({ id: String(i), caption }));
  const drawn = { generator, sampling, diffusion, seed: 5 };
  await synthesize({ ...drawn, captions: rows, tokenizer: images, output: at("free"), shardSize: 2 });
  await synthesize({
    ...{ ...drawn, diffusion: { ...diffusion, snap: true }, captions: rows, tokenizer: images },
    ...{ output: at("snapped"), shardSize: 2 },
  });
  await using free = await SyntheticDataset.open(at("free"));
  await using snapped = await SyntheticDataset.open(at("snapped"));
  for (const i of rows.keys()) {
    const [loose, tight] = [(await free.get(i)).embedding, (await snapped.get(i)).embedding];
    const codes = await images.nearest(loose);
    expect(tight).toEqual(images.embed(codes));
    expect(tight).not.toEqual(loose);
    // Nearest in double precision.
    const table = images.embed(Int32Array.from({ length: 32 }, (_, code) => code));
    codes.forEach((code, at) => {
      const distance = (of: number) =>
        [0, 1, 2, 3].reduce((sum, d) => sum + (loose[4 * at + d]! - table[4 * of + d]!) ** 2, 0);
      for (let other = 0; other < 32; other++) expect(distance(code)).toBeLessThanOrEqual(distance(other) + 1e-5);
    });
  }
  const live = await OnTheFlyDataset.open({ ...drawn, captions: rows, images });
  expect(await live.get(2)).toEqual(await free.get(2));
  const other = synthesize({ ...drawn, seed: 6, captions: rows, tokenizer: images, output: at("free"), shardSize: 2 });
  await expect(other).rejects.toMatchObject({ code: "TREFOIL_RESUME" });
  const { generated } = await measureFaithfulness({ ...drawn, data: world, tokenizer: images });
  expect(generated!.exact).toBeGreaterThanOrEqual(0);

  const sampler = pictureSampler(generator, images, { sampling, diffusion: { ...diffusion, snap: true } });
  const given = Int32Array.from({ length: 16 }, (_, i) => (i % 3 === 0 ? i : UNKNOWN_CODE));
  const settled: number[] = [];
  const { codes } = await sampler.draw({
    ...{ captions: [Int32Array.of(1, 2)], seeds: [pictureSeed(1, "painted")], given },
    onStep: ({ tokens, sampled }) => {
      settled.push(tokens.filter((code) => code !== UNKNOWN_CODE).length);
      expect(sampled).toHaveLength(16);
    },
  });
  given.forEach((code, i) => {
    // Codes with equal rows are one another's nearest.
    if (code !== UNKNOWN_CODE)
      expect(images.embed(codes.subarray(i, i + 1))).toEqual(images.embed(given.subarray(i, i + 1)));
  });
  expect(settled).toEqual([6, 6, 6, 16]);
  generator.model.dispose();
  const foreign = { ...generator, tokenizerHash: "0".repeat(64) };
  expect(() => pictureSampler(foreign, images, { sampling })).toThrow(/belongs to the image tokenizer/);
}, 60_000);
