import { type Tensor, tensor } from "@trefoil/core";
import { describe, expect, it } from "vitest";
import { textBatch } from "../../src/generator/index.js";
import { MaskedGenerator } from "../../src/generator/masked-model.js";
import { MaskedSampler, pictureSeed, samplingSchema, UNKNOWN_CODE } from "../../src/sampling/index.js";

const architecture = {
  width: 16,
  layers: 1,
  heads: 2,
  feedForward: 16,
  textWidth: 8,
  textLayers: 1,
  textWindow: 2,
  maxTextTokens: 6,
  gridSize: 4,
  codes: 8,
  codeWidth: 4,
  vocabulary: 12,
};
const positions = 16;
const options = (some: Partial<ReturnType<typeof samplingSchema.parse>> = {}) =>
  samplingSchema.parse({ steps: 4, ...some });
const captions = [[1, 2, 3], [4], [5, 6], [7, 8, 9, 10], [11]].map((tokens) => Int32Array.from(tokens));
const seeds = captions.map((_, i) => pictureSeed(7, `picture ${i}`));

it("at the hottest temperature draws entries of each slot's own book alone", async () => {
  expect(samplingSchema.safeParse({ temperature: 101 }).success).toBe(false);
  const model = new MaskedGenerator({ ...architecture, codes: 8 * 4, books: [8, 4] }, 3);
  const sampler = new MaskedSampler(model, options({ temperature: 100, steps: 1 }), 8);
  const many = Array.from({ length: 64 }, (_, i) => Int32Array.of(i % 12));
  const codes = await sampler.sample({ captions: many, seeds: many.map((_, i) => pictureSeed(1, `hot ${i}`)) });
  expect(codes.every((code) => code >= 0 && code < 32)).toBe(true);
});

describe("masked sampler", () => {
  const model = new MaskedGenerator(architecture, 3);

  for (const order of ["confidence", "random", "halton"] as const) {
    it(`draws the same picture wherever it stands in a batch, in ${order} order`, async () => {
      const sampler = new MaskedSampler(model, options({ order }), 4);
      const all = await sampler.sample({ captions, seeds });
      const reversed = await sampler.sample({ captions: captions.toReversed(), seeds: seeds.toReversed() });
      captions.forEach((_, i) => {
        const other = captions.length - 1 - i;
        expect(reversed.subarray(other * positions, (other + 1) * positions)).toEqual(
          all.subarray(i * positions, (i + 1) * positions),
        );
      });
    });

    it(`never changes given codes, in ${order} order`, async () => {
      const given = new Int32Array(2 * positions).fill(UNKNOWN_CODE);
      for (let i = 0; i < given.length; i += 3) given[i] = i % 8;
      const steps: number[] = [];
      const out = await new MaskedSampler(model, options({ order }), 2).sample({
        captions: captions.slice(0, 2),
        seeds: seeds.slice(0, 2),
        given,
        onStep: ({ step, tokens, sampled }) => {
          steps.push(step);
          given.forEach((code, i) => {
            if (code !== UNKNOWN_CODE) expect([tokens[i], sampled[i]]).toEqual([code, code]);
          });
        },
      });
      expect(steps).toEqual([1, 2, 3, 4]);
      given.forEach((code, i) => {
        if (code !== UNKNOWN_CODE) expect(out[i]).toBe(code);
        expect(out[i]).toBeLessThan(8);
        expect(out[i]).toBeGreaterThanOrEqual(0);
      });
    });
  }

  it("draws from the model's distribution in one step: chi-square", async () => {
    // All captions absent and one step: every position is an independent draw from the same softmax.
    const rows = 256;
    const sampler = new MaskedSampler(model, options({ steps: 1, guidance: 0, temperature: 1 }), rows);
    const none = Array.from({ length: rows }, () => new Int32Array(0));
    const out = await sampler.sample({ captions: none, seeds: none.map((_, i) => pictureSeed(1, String(i))) });
    const hidden = tensor(new Int32Array(positions).fill(model.maskToken), { shape: [1, positions] });
    const logits = model.logits(hidden, model.condition(textBatch([new Int32Array(0)], architecture.maxTextTokens)));
    const probabilities = await logits.softmax().data();
    let chiSquare = 0;
    for (let position = 0; position < positions; position++) {
      const counts = new Array<number>(8).fill(0);
      for (let row = 0; row < rows; row++) counts[out[row * positions + position]!]!++;
      counts.forEach((count, code) => {
        const expected = rows * probabilities[position * 8 + code]!;
        chiSquare += (count - expected) ** 2 / expected;
      });
    }
    // 16 × 7 degrees of freedom: mean 112, standard deviation 15.
    expect(chiSquare).toBeLessThan(112 + 4 * 15);
    expect(chiSquare).toBeGreaterThan(112 - 4 * 15);
  });

  it("passes over codes without a caption as it does with an absent one, and over one row as over many alike", async () => {
    const absent = model.condition(
      textBatch(
        captions.map(() => new Int32Array(0)),
        architecture.maxTextTokens,
      ),
    );
    const present = model.condition(textBatch(captions, architecture.maxTextTokens));
    const rows = (count: number) =>
      tensor(
        Int32Array.from({ length: count * positions }, (_, i) => (i % positions) % 9),
        { shape: [count, positions] },
      );
    const [one, all] = [rows(1), rows(captions.length)];
    const close = async (a: Tensor, b: Tensor, period = b.size) => {
      const expected = await b.data();
      (await a.data()).forEach((value, i) => {
        expect(value).toBeCloseTo(expected[i % period]!, 5);
      });
    };
    await close(model.logits(all, model.noCondition()), model.logits(all, absent));
    await close(model.logits(all, absent), model.logits(one, model.noCondition()), positions * 8);
    await close(model.logits(one, present), model.logits(all, present));
  });

  it("is guided by a negative prompt", async () => {
    const some = { captions: captions.slice(0, 2), seeds: seeds.slice(0, 2) };
    const sampler = new MaskedSampler(model, options({ guidance: 8, temperature: 0, confidenceNoise: 0 }), 2);
    const plain = await sampler.sample(some);
    const away = await sampler.sample({ ...some, negative: Int32Array.of(9, 10, 11) });
    expect(await sampler.sample({ ...some, negative: new Int32Array(0) })).toEqual(plain);
    expect(away).not.toEqual(plain);
  });

  it("is guided from the second step on where guidance is a ramp, and by all of it at the last", async () => {
    const stepsOf = async (some: Parameters<typeof options>[0]) => {
      const steps: number[][] = [];
      const onStep = ({ sampled }: { sampled: Int32Array }) => void steps.push([...sampled]);
      const sampler = new MaskedSampler(model, options({ steps: 2, temperature: 0, confidenceNoise: 0, ...some }), 2);
      await sampler.sample({ captions: captions.slice(0, 2), seeds: seeds.slice(0, 2), onStep });
      return steps;
    };
    const [none, ramp, all] = [
      await stepsOf({ guidance: 0 }),
      await stepsOf({ guidance: 30, guidanceRamp: true }),
      await stepsOf({ guidance: 30 }),
    ];
    expect(ramp[0]).toEqual(none[0]);
    expect(ramp[0]).not.toEqual(all[0]);
    expect(ramp[1]).not.toEqual(none[1]);
    expect(await stepsOf({ steps: 1, guidance: 30, guidanceRamp: true })).toEqual(
      await stepsOf({ steps: 1, guidance: 30 }),
    );
  });

  it("takes any number of steps, more than there are codes too", async () => {
    const sampler = new MaskedSampler(model, options({ steps: 40 }), 1);
    const out = await sampler.sample({ captions: captions.slice(0, 1), seeds: seeds.slice(0, 1) });
    expect(out.every((code) => code >= 0 && code < 8)).toBe(true);
  });

  it("stops when its signal is aborted", async () => {
    const controller = new AbortController();
    const sampling = new MaskedSampler(model, options(), 2).sample({
      captions: captions.slice(0, 2),
      seeds: seeds.slice(0, 2),
      signal: controller.signal,
      onStep: ({ step }) => {
        if (step === 2) controller.abort(new Error("enough"));
        expect(step).toBeLessThanOrEqual(2);
      },
    });
    await expect(sampling).rejects.toThrow("enough");
  });

  it("refuses codes of a larger codebook", async () => {
    const given = new Int32Array(positions).fill(8);
    const sampling = new MaskedSampler(model, options(), 1).sample({
      captions: captions.slice(0, 1),
      seeds: seeds.slice(0, 1),
      given,
    });
    await expect(sampling).rejects.toMatchObject({ code: "SYNTH_DATA" });
  });
});
