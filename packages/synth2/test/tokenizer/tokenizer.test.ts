import { appendFileSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { compile, InitialValues, RandomGenerator, tensor } from "@trefoil/core";
import { afterAll, describe, expect, it } from "vitest";
import { adaptiveWeight, PatchDiscriminator } from "../../src/tokenizer/discriminator.js";
import {
  architectureSchema,
  Codebook,
  CodebookUsage,
  imagesTensor,
  saveImageTokenizer,
  TokenizerModel,
  TokenizerTrainer,
  VqImageTokenizer,
} from "../../src/tokenizer/index.js";

const folder = mkdtempSync(join(tmpdir(), "synth2-tokenizer-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const architecture = architectureSchema.parse({
  imageSize: 8,
  patchSize: 2,
  channels: [8, 8],
  groups: 2,
  codes: 6,
  codeWidth: 3,
  attention: true,
  codesSee: "picture",
  structureCodes: 0,
});
const settings = {
  steps: 30,
  batch: 4,
  learningRate: 0.01,
  warmupSteps: 2,
  weightDecay: 0,
  clipNorm: 1,
  seed: 0,
  checkpointEvery: 100,
  keepCheckpoints: 1,
};
const images = new InitialValues(5).uniform([4, 8, 8, 3], 1);

describe("codebook", () => {
  it("follows its latents by moving averages, as the closed form says", async () => {
    const [codes, width, rows, decay, epsilon] = [4, 2, 6, 0.9, 1e-5];
    const codebook = new Codebook(codes, width, false, new InitialValues(1));
    const usage = new CodebookUsage(codes, width);
    const latents = new InitialValues(2).normal([rows, width], 1);
    const index = [0, 1, 1, 3, 3, 3];
    const update = compile(
      (z: ReturnType<typeof tensor>, i: ReturnType<typeof tensor>, on: ReturnType<typeof tensor>) =>
        usage.update(
          codebook,
          { latents: z, index: i },
          { learning: "ema", decay, reviveBelow: 0, reviveCandidates: 1 },
          new RandomGenerator(0),
          on,
        ),
    );
    const counts = new Float64Array(codes);
    const sums = new Float64Array(codes * width);
    for (let step = 0; step < 3; step++) {
      await update(tensor(latents, { shape: [rows, width] }), tensor(Int32Array.from(index)), tensor(1));
      for (let k = 0; k < codes; k++) {
        counts[k] = decay * counts[k]! + (1 - decay) * index.filter((each) => each === k).length;
        for (let d = 0; d < width; d++) {
          const now = index.reduce((sum, each, row) => (each === k ? sum + latents[row * width + d]! : sum), 0);
          sums[k * width + d] = decay * sums[k * width + d]! + (1 - decay) * now;
        }
      }
    }
    const total = counts.reduce((a, b) => a + b, 0);
    const found = await codebook.weight.data();
    for (let k = 0; k < codes; k++) {
      const smoothed = ((counts[k]! + epsilon) / (total + codes * epsilon)) * total;
      for (let d = 0; d < width; d++) expect(found[k * width + d]).toBeCloseTo(sums[k * width + d]! / smoothed, 4);
    }
  });

  it("replaces dead codes by latents of the batch", async () => {
    const codebook = new Codebook(5, 2, false, new InitialValues(1));
    const usage = new CodebookUsage(5, 2);
    const latents = new InitialValues(2).normal([3, 2], 1);
    const random = new RandomGenerator(4);
    const update = compile(
      (z: ReturnType<typeof tensor>, i: ReturnType<typeof tensor>, on: ReturnType<typeof tensor>) =>
        usage.update(
          codebook,
          { latents: z, index: i },
          { learning: "ema", decay: 0.9, reviveBelow: 1, reviveCandidates: 2 },
          random,
          on,
        ),
    );
    const { revived } = await update(tensor(latents, { shape: [3, 2] }), tensor(Int32Array.of(0, 0, 0)), tensor(1));
    expect(await revived.item()).toBe(5);
    const table = await codebook.weight.data();
    const rows = new Set([0, 1, 2].map((row) => `${latents[2 * row]},${latents[2 * row + 1]}`));
    for (let k = 0; k < 5; k++) expect(rows).toContain(`${table[2 * k]},${table[2 * k + 1]}`);
  });
});

describe("discriminator", () => {
  it("has an R1 penalty whose gradient agrees with finite differences", async () => {
    const judge = new PatchDiscriminator([4], new InitialValues(3));
    const real = tensor(images, { shape: [4, 8, 8, 3] });
    const weight = judge.output.weight;
    const { gradients } = await import("@trefoil/core");
    const run = compile((x: ReturnType<typeof tensor>) => {
      const penalty = judge.gradientPenalty(x);
      return { penalty, slope: gradients(penalty, [weight])[0]! };
    });
    const slope = (await (await run(real)).slope.data()) as Float32Array;
    const start = (await weight.data()) as Float32Array;
    const at = slope.reduce((best, value, i) => (Math.abs(value) > Math.abs(slope[best]!) ? i : best), 0);
    const moved = async (by: number) => {
      const values = start.slice();
      values[at]! += by;
      weight.set(values);
      return await (await run(real)).penalty.item();
    };
    const numeric = ((await moved(0.02)) - (await moved(-0.02))) / 0.04;
    // The penalty is quadratic in this layer: only rounding is left.
    expect(Math.abs(numeric - slope[at]!)).toBeLessThan(2e-3 * Math.abs(numeric));
  });

  it("weighs the adversarial loss by gradients at the last layer", async () => {
    const model = new TokenizerModel(architecture, 1);
    const last = model.autoencoder.decoder.output.weight;
    const run = compile((x: ReturnType<typeof tensor>) => {
      const made = model.images(model.latents(x));
      const loss = made.square().mean();
      return { alike: adaptiveWeight(loss, loss, last), triple: adaptiveWeight(loss.mul(3), loss, last) };
    });
    const { alike, triple } = await run(tensor(images, { shape: [4, 8, 8, 3] }));
    expect((await triple.item()) / (await alike.item())).toBeCloseTo(3, 4);
    expect(await alike.item()).toBeLessThan(1);
  });
});

describe("image tokenizer", () => {
  for (const learning of ["ema", "gradient"] as const) {
    it(`learns to reconstruct with a codebook by ${learning}, with a discriminator`, async () => {
      const trainer = new TokenizerTrainer(
        architecture,
        {
          reconstruction: "l2",
          contrast: 0,
          codebook: { learning, decay: 0.9, reviveBelow: 0.1, reviveCandidates: 1 },
          commitment: 0.25,
          reviveUntil: 0.8,
          adversarial: { weight: 0.1, startStep: 20, channels: [4], gradientPenalty: 1 },
        },
        settings,
      );
      const losses: number[] = [];
      let last: Record<string, number> = {};
      for (let i = 0; i < settings.steps; i++) {
        last = await trainer.step(imagesTensor(images, 8), i);
        losses.push(last.l1!);
      }
      expect(losses.at(-1)).toBeLessThan(losses[0]!);
      expect(last.adversarialWeight).toBeGreaterThan(0);
      expect(Object.values(last).every(Number.isFinite)).toBe(true);
      trainer.dispose();
    });
  }

  it("saves a folder whose hash is that of its content, and notices a change", async () => {
    const path = join(folder, "saved");
    const model = new TokenizerModel(architecture, 2);
    const hash = await saveImageTokenizer(model, path);
    const opened = await VqImageTokenizer.open(path);
    expect(opened.hash).toBe(hash);
    const codes = await opened.encode(images, 4);
    expect(codes.length).toBe(4 * 4);
    // One image alone gives what it gives in a batch.
    expect(await opened.encode(images.slice(0, 192), 1)).toEqual(codes.subarray(0, 4));
    const embeddings = opened.embed(codes);
    const [fromCodes, fromEmbeddings] = [await opened.decode(codes, 4), await opened.decodeEmbeddings(embeddings, 4)];
    expect(fromEmbeddings).toEqual(fromCodes);
    expect(() => opened.embed(Int32Array.of(6))).toThrow("outside of the codebook");

    const file = join(path, "model.safetensors");
    const bytes = readFileSync(file);
    bytes[bytes.length - 1]! ^= 1;
    writeFileSync(file, bytes);
    await expect(VqImageTokenizer.open(path)).rejects.toMatchObject({ code: "SYNTH_MODEL" });
    const config = readFileSync(join(path, "config.json"), "utf8");
    writeFileSync(join(path, "config.json"), config.replace("codesSee", "codeSees"));
    await expect(VqImageTokenizer.open(path)).rejects.toThrow(/of this version: .*codeSees/);
    writeFileSync(join(path, "config.json"), "{}");
    await expect(VqImageTokenizer.open(path)).rejects.toThrow('holds no model, not a "trefoil-image-tokenizer"');
    appendFileSync(join(path, "config.json"), "x");
    await expect(VqImageTokenizer.open(path)).rejects.toThrow();
  });
});
