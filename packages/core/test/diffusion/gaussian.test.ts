import { describe, expect, it } from "vitest";
import { addNoise, cosineAlphaBar, ddimStep, denoiserTarget } from "../../src/diffusion/index.js";
import { compile, type Tensor, tensor } from "../../src/index.js";

const clean = tensor([0.5, -1.25, 2, 0.1]);
const noise = tensor([1.5, 0.25, -0.75, -2]);
const fresh = tensor([-0.3, 1.1, 0.6, -0.9]);

async function expectClose(actual: Tensor, expected: number[]): Promise<void> {
  const values = [...(await actual.data())];
  values.forEach((value, i) => {
    expect(value).toBeCloseTo(expected[i]!, 5);
  });
}

describe("cosineAlphaBar", () => {
  it("follows the squared cosine until β is clipped", () => {
    const alphaBar = cosineAlphaBar(1000);
    const ideal = (t: number) => Math.cos(((t / 1000 + 0.008) / 1.008) * (Math.PI / 2)) ** 2;
    expect(alphaBar[0]).toBe(1);
    for (const t of [1, 100, 500, 998]) expect(alphaBar[t]! / (ideal(t) / ideal(0))).toBeCloseTo(1, 12);
    expect(alphaBar[1000]! / alphaBar[999]!).toBeCloseTo(0.001, 12);
  });

  it("has the values of the cumulative product of 1 - β that PyTorch 2.13 gives in double precision", () => {
    const short = [
      0.972092737113969, 0.8987059205995089, 0.4938435904406378, 0.02409172414008586, 2.4091724140085884e-5,
    ];
    const ours = cosineAlphaBar(10);
    [1, 2, 5, 9, 10].forEach((t, i) => {
      expect(ours[t]! / short[i]!).toBeCloseTo(1, 12);
    });
    const long = [0.999958715775178, 0.847012161326905, 0.14427210238573598, 2.4287669070348544e-6];
    const thousand = cosineAlphaBar(1000);
    [1, 250, 750, 999].forEach((t, i) => {
      expect(thousand[t]! / long[i]!).toBeCloseTo(1, 10);
    });
  });
});

describe("ddimStep", () => {
  const [now, next] = [0.3, 0.7];

  it("moves along the line of clean value and noise, whatever the denoiser predicts", async () => {
    const expected = [0, 1, 2, 3].map(
      (i) => Math.sqrt(next) * [0.5, -1.25, 2, 0.1][i]! + Math.sqrt(1 - next) * [1.5, 0.25, -0.75, -2][i]!,
    );
    for (const target of ["x0", "noise", "v"] as const) {
      const step = compile((x: Tensor, e: Tensor, a: Tensor, b: Tensor) => {
        const prediction = denoiserTarget(target, x, e, a);
        return ddimStep({ sample: addNoise(x, e, a), prediction, target, alphaBar: a, nextAlphaBar: b });
      });
      await expectClose(await step(clean, noise, tensor(now), tensor(next)), expected);
    }
  });

  it("is the posterior of DDPM at eta = 1", async () => {
    const step = compile((x: Tensor, e: Tensor, xi: Tensor) =>
      ddimStep({
        sample: addNoise(x, e, now),
        prediction: x,
        target: "x0",
        alphaBar: now,
        nextAlphaBar: next,
        eta: 1,
        noise: xi,
      }),
    );
    // Ho et al. 2020, equations 6 and 7: α = now / next, β = 1 - α.
    const alpha = now / next;
    const [x, e, xi] = [await clean.data(), await noise.data(), await fresh.data()];
    const expected = [0, 1, 2, 3].map((i) => {
      const sample = Math.sqrt(now) * x[i]! + Math.sqrt(1 - now) * e[i]!;
      const mean = (Math.sqrt(next) * (1 - alpha) * x[i]! + Math.sqrt(alpha) * (1 - next) * sample) / (1 - now);
      return mean + Math.sqrt(((1 - next) / (1 - now)) * (1 - alpha)) * xi[i]!;
    });
    await expectClose(await step(clean, noise, fresh), expected);
  });

  it("ends at the clean value", async () => {
    const step = compile((x: Tensor, e: Tensor) =>
      ddimStep({ sample: addNoise(x, e, now), prediction: e, target: "noise", alphaBar: now, nextAlphaBar: 1 }),
    );
    await expectClose(await step(clean, noise), [0.5, -1.25, 2, 0.1]);
  });

  it("asks for the noise that eta needs", () => {
    const given = { sample: clean, prediction: clean, target: "x0", alphaBar: now, nextAlphaBar: next } as const;
    expect(() => ddimStep({ ...given, eta: 0.5 })).toThrow(/give it noise/);
  });
});
