import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { compile, InitialValues, multiply, Parameter, RandomGenerator, sum, tensor, valueAndGrad } from "@trefoil/core";
import { describe, expect, it } from "vitest";
import { Codebook, CodebookUsage, imageBatch, usageOf, VqImageTokenizer } from "../../src/index.js";
import { temporaryFolder } from "../folder.js";
import { trainSmallTokenizer, world } from "./small.js";

const latentRows = Float32Array.of(0.9, 0.1, 0.2, 0.8, 1.1, 0.2, -0.5, 0.4);

async function smallCodebook(): Promise<Codebook> {
  const codebook = new Codebook(3, 2, false, new InitialValues(1));
  codebook.weight.set(Float32Array.of(1, 0, 0, 1, 5, 5));
  return codebook;
}

describe("codebook", () => {
  it("passes gradients straight through, and pulls codes and latents to each other", async () => {
    const codebook = await smallCodebook();
    const latents = new Parameter([4, 2], { data: latentRows });
    const weights = tensor(
      Float32Array.from({ length: 8 }, (_, i) => i - 3),
      { shape: [4, 2] },
    );
    const run = compile(() => {
      const found = codebook.quantise(latents);
      const through = valueAndGrad(() => sum(multiply(codebook.quantise(latents).quantised, weights)), [latents]);
      const commitment = valueAndGrad(() => codebook.quantise(latents).commitment, [latents, codebook.weight]);
      return {
        index: found.index,
        through: through.grads[0]!,
        latents: commitment.grads[0]!,
        codes: commitment.grads[1]!,
      };
    });
    const result = await run();
    expect([...(await result.index.data())]).toEqual([0, 1, 0, 1]);
    expect([...(await result.through.data())]).toEqual([-3, -2, -1, 0, 1, 2, 3, 4]);
    // d mean (z - e)² / dz = 2 (z - e) / 8
    const codes = [1, 0, 0, 1, 1, 0, 0, 1];
    (await result.latents.data()).forEach((value, i) => {
      expect(value).toBeCloseTo((latentRows[i]! - codes[i]!) / 4, 6);
    });
    expect((await result.codes.data()).every((value) => value === 0)).toBe(true);
  });

  it("follows its latents by moving averages, and replaces what is never used", async () => {
    const codebook = await smallCodebook();
    const usage = new CodebookUsage(3, 2);
    usage.counts.set(Float32Array.of(2, 1, 0.1));
    usage.sums.set(Float32Array.of(2, 0.5, 0, 1, 0.5, 0.5));
    const random = new RandomGenerator(3);
    const update = { learning: "ema", decay: 0.9, reviveBelow: 0.5, reviveCandidates: 4 } as const;
    const run = compile(() => {
      const found = codebook.quantise(tensor(latentRows, { shape: [4, 2] }));
      return { ...usage.update(codebook, found, update, random, tensor(1)), ...usageOf(found.index, 3) };
    });
    const { revived, codesUsed, perplexity } = await run();
    // N = 0.9 N + 0.1 n, m = 0.9 m + 0.1 Σ z, e = m / N with counts smoothed by 1e-5 (VQ-VAE, appendix A.1).
    const counts = [0.9 * 2 + 0.2, 0.9 + 0.2, 0.09];
    const sums = [0.9 * 2 + 0.1 * 2, 0.9 * 0.5 + 0.1 * 0.3, 0.1 * -0.3, 0.9 + 0.1 * 1.2];
    const total = counts.reduce((a, b) => a + b);
    const smoothed = counts.map((count) => ((count + 1e-5) / (total + 3e-5)) * total);
    const table = await codebook.weight.data();
    [0, 1, 2, 3].forEach((i) => {
      expect(table[i]).toBeCloseTo(sums[i]! / smoothed[i >> 1]!, 5);
    });
    expect(await revived.item()).toBe(1);
    // The third code is one of the latents now.
    const rows = [0, 1, 2, 3].map((row) => [...latentRows.subarray(2 * row, 2 * row + 2)]);
    expect(rows).toContainEqual([table[4], table[5]]);
    expect(await codesUsed.item()).toBe(2);
    expect(await perplexity.item()).toBeCloseTo(2, 4);
  });
});

describe("an image tokenizer", () => {
  it("learns to reconstruct; its folder gives the same codes; changed weights are refused", async () => {
    const folder = await temporaryFolder();
    const output = join(folder, "tokenizer");
    const evaluation = { data: world, every: 1000 };
    const short = await trainSmallTokenizer(join(folder, "short"), 2, { evaluation });
    const { hash, evaluation: scores } = await trainSmallTokenizer(output, 60, { evaluation });
    expect(scores!.psnr).toBeGreaterThan(short.evaluation!.psnr + 2);
    expect(scores!.codesUsed).toBeGreaterThan(4);
    const images = await imageBatch(world, [0, 1, 2, 3, 4]);
    {
      using opened = await VqImageTokenizer.open(output);
      expect(opened.hash).toBe(hash);
      const codes = await opened.encode(images, 5);
      expect(codes).toHaveLength(5 * 16);
      // One picture alone has the codes it has among others.
      expect(await opened.encode(images.subarray(0, images.length / 5), 1)).toEqual(codes.slice(0, 16));
      const embedded = await opened.decodeEmbeddings(opened.embed(codes), 5);
      (await opened.decode(codes, 5)).forEach((value, i) => {
        expect(value).toBeCloseTo(embedded[i]!, 5);
      });
      expect(() => opened.embed(Int32Array.of(32))).toThrow(/outside of the codebook/);
    }
    const file = join(output, "model.safetensors");
    const bytes = await readFile(file);
    bytes[bytes.length - 2]! ^= 1;
    await writeFile(file, bytes);
    await expect(VqImageTokenizer.open(output)).rejects.toMatchObject({ code: "SYNTH_MODEL" });
  });

  it("trains against a discriminator with an adaptive weight, and stopped and resumed ends the same", async () => {
    const folder = await temporaryFolder();
    const adversarial = { weight: 0.5, startStep: 6, channels: [8], gradientPenalty: 1 };
    const loss = {
      reconstruction: "l2",
      contrast: 0,
      codebook: { learning: "gradient", decay: 0.9, reviveBelow: 0.5, reviveCandidates: 4 },
      commitment: 0.25,
      reviveUntil: 0.5,
      adversarial,
    };
    const whole = await trainSmallTokenizer(join(folder, "whole"), 12, { loss });
    const stopping = new AbortController();
    const data = {
      length: world.length,
      size: world.size,
      get: (index: number) => {
        reads++;
        if (reads > 60) stopping.abort();
        return world.get(index);
      },
    };
    let reads = 0;
    const output = join(folder, "stopped");
    const first = await trainSmallTokenizer(output, 12, { loss, data, signal: stopping.signal });
    expect(first.completed).toBe(false);
    const second = await trainSmallTokenizer(output, 12, { loss, resume: true });
    expect(second.hash).toBe(whole.hash);
    const other = trainSmallTokenizer(join(folder, "stopped2"), 12, {
      loss,
      resume: true,
      run: `${output}-run`,
      dataName: "other",
    });
    await expect(other).rejects.toMatchObject({ code: "TREFOIL_RESUME" });
  });
});
