import { multiply, type Tensor } from "@trefoil/core";
import { describe, expect, it } from "vitest";
import { DiffusionSampler, diffusionSamplingSchema, EmbeddingDenoiser } from "../../src/diffusion/index.js";
import { pictureSeed } from "../../src/sampling/index.js";

const architecture = {
  ...{ width: 16, layers: 1, heads: 2, feedForward: 16, textWidth: 8, textLayers: 1, textWindow: 2, maxTextTokens: 6 },
  ...{ gridSize: 2, codes: 8, codeWidth: 3, vocabulary: 12, target: "v" as const, timesteps: 100 },
};
const each = 4 * 3;
const captions = [[1, 2, 3], [4], [5, 6], [7, 8, 9, 10], [11]].map((tokens) => Int32Array.from(tokens));
const seeds = captions.map((_, i) => pictureSeed(7, `picture ${i}`));
const options = (some: object = {}) => diffusionSamplingSchema.parse({ steps: 5, ...some });
const close = (actual: Float32Array, expected: ArrayLike<number>, digits: number) =>
  actual.forEach((value, i) => {
    expect(value).toBeCloseTo(expected[i]!, digits);
  });

/** Predicts a velocity of 0.3 times the sample, so that every step multiplies the sample by a number. */
class LinearDenoiser extends EmbeddingDenoiser {
  override predict(sample: Tensor): Tensor {
    return multiply(sample, 0.3);
  }
}

describe("diffusion sampler", () => {
  const model = new EmbeddingDenoiser(architecture, 3);

  for (const eta of [0, 1]) {
    it(`draws the same picture wherever it stands in a batch, η = ${eta}`, async () => {
      const sampler = new DiffusionSampler(model, options({ eta }), 4);
      const all = await sampler.sample({ captions, seeds });
      const again = await sampler.sample({ captions, seeds });
      expect(again).toEqual(all);
      const reversed = await sampler.sample({ captions: captions.toReversed(), seeds: seeds.toReversed() });
      captions.forEach((_, i) => {
        const other = captions.length - 1 - i;
        const picture = all.subarray(i * each, (i + 1) * each);
        // Alone in its batch at the end: another shape of products, another order of sums.
        close(reversed.subarray(other * each, (other + 1) * each), picture, 4);
      });
      const elsewhere = await sampler.sample({ captions, seeds: seeds.map(() => pictureSeed(8, "another")) });
      expect(elsewhere).not.toEqual(all);
    });
  }

  it("follows the product of its steps in closed form, with fresh noise only where η asks for it", async () => {
    const linear = new LinearDenoiser(architecture, 1);
    linear.fit([Float32Array.of(1, 10, -2, 3, 14, -2)]);
    const [offset, scale] = [
      [2, 12, -2],
      [1, 2, 1],
    ];
    const guesses: Float32Array[] = [];
    const request = { captions: captions.slice(0, 2), seeds: seeds.slice(0, 2) };
    const onStep = ({ guess }: { guess: Float32Array }) => void guesses.push(guess);
    const drawn = await new DiffusionSampler(linear, options({ guidance: 0 }), 2).sample({ ...request, onStep });
    // arXiv 2010.02502, equation 12, in doubles: from the first guess of the clean value back to the noise, then on to the end.
    const factors = (now: number, next: number) => {
      const [signal, sigma] = [Math.sqrt(now), Math.sqrt(1 - now)];
      const clean = signal - 0.3 * sigma;
      return { clean, step: Math.sqrt(next) * clean + Math.sqrt(1 - next) * (sigma + 0.3 * signal) };
    };
    const times = [100, 80, 60, 40, 20, 0].map((t) => linear.alphaBar[t]!);
    const first = factors(times[0]!, times[1]!);
    const product = times.slice(1).reduce((total, now, i) => total * factors(times[i]!, now).step, 1);
    const plain = (values: Float32Array) => Array.from(values, (value, i) => (value - offset[i % 3]!) / scale[i % 3]!);
    close(
      Float32Array.from(plain(drawn)),
      plain(guesses[0]!).map((value) => (value / first.clean) * product),
      4,
    );
    expect(guesses).toHaveLength(5);
    expect(guesses.at(-1)).toEqual(drawn);
    const noisy = await new DiffusionSampler(linear, options({ guidance: 0, eta: 1 }), 2).sample(request);
    expect(Math.max(...noisy.map((value, i) => Math.abs(value - drawn[i]!)))).toBeGreaterThan(0.1);
  });

  it("is not moved by guidance away from the caption itself, and is by guidance away from another", async () => {
    const draw = async (guidance: number, negative?: Int32Array) =>
      await new DiffusionSampler(model, options({ guidance, guidanceRamp: true }), 1).sample({
        ...{ captions: [captions[0]!], seeds: [seeds[0]!] },
        ...(negative && { negative }),
      });
    const plain = await draw(0);
    close(await draw(4, captions[0]), plain, 4);
    expect(Math.max(...(await draw(4)).map((value, i) => Math.abs(value - plain[i]!)))).toBeGreaterThan(1e-3);
  });

  it("keeps given embeddings, and paints the others differently for them", async () => {
    const sampler = new DiffusionSampler(model, options(), 3);
    const plain = await sampler.sample({ captions, seeds });
    const known = Uint8Array.from({ length: 5 * 4 }, (_, i) => Number(i % 4 < 2));
    const embeddings = Float32Array.from({ length: 5 * each }, (_, i) => (i % 7) - 3);
    const painted = await sampler.sample({ captions, seeds, given: { embeddings, known } });
    let moved = 0;
    painted.forEach((value, i) => {
      if (known[Math.floor(i / 3)]) expect(value).toBe(embeddings[i]);
      else moved = Math.max(moved, Math.abs(value - plain[i]!));
    });
    expect(moved).toBeGreaterThan(1e-3);
  });

  it("stops when its signal is aborted, and refuses what does not fit", async () => {
    const stopping = new AbortController();
    const onStep = () => stopping.abort(new Error("enough"));
    const sampler = new DiffusionSampler(model, options(), 2);
    await expect(sampler.sample({ captions, seeds, onStep, signal: stopping.signal })).rejects.toThrow("enough");
    await expect(sampler.sample({ captions, seeds: [] })).rejects.toMatchObject({ code: "SYNTH_OPTIONS" });
    const short = { embeddings: new Float32Array(3), known: new Uint8Array(1) };
    await expect(sampler.sample({ captions, seeds, given: short })).rejects.toMatchObject({ code: "SYNTH_OPTIONS" });
    expect(() => new DiffusionSampler(model, options({ steps: 101 }))).toThrow(/100 levels/);
  });
});
