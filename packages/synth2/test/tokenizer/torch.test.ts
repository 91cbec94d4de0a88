import { join } from "node:path";
import {
  add,
  compile,
  InitialValues,
  matmul,
  mean,
  multiply,
  Parameter,
  RandomGenerator,
  SafetensorsFile,
  square,
  type Tensor,
  tanh,
  tensor,
  valueAndGrad,
} from "@trefoil/core";
import { describe, expect, it } from "vitest";
import { Codebook, CodebookUsage } from "../../src/tokenizer/index.js";

const [codes, width, rows] = [7, 3, 40];

/** `codebook.safetensors`, made by `codebook_fixture.py`. */
async function fixture(): Promise<(name: string) => Promise<Float32Array>> {
  const file = await SafetensorsFile.open(join(import.meta.dirname, "codebook.safetensors"));
  return (name) => file.readF32(name);
}

// Single precision on both sides, sums of at most 40 values near 1.
const expectClose = (found: ArrayLike<number>, expected: Float32Array) => {
  expect(found).toHaveLength(expected.length);
  expected.forEach((value, i) => {
    expect(Math.abs(found[i]! - value)).toBeLessThan(2e-6 * Math.max(1, Math.abs(value)));
  });
};

describe("a codebook beside PyTorch's", () => {
  it("has the straight-through gradient, and those of codebook and commitment loss", async () => {
    const read = await fixture();
    const codebook = new Codebook(codes, width, false, new InitialValues(0));
    codebook.weight.set(await read("table"));
    const latents = new Parameter([rows, width], { data: await read("latents") });
    const mixing = tensor(await read("mixing"), { shape: [width, 5] });
    const run = compile(() =>
      valueAndGrad(() => {
        const { quantised, codebookLoss, commitment } = codebook.quantise(latents);
        return add(add(mean(square(tanh(matmul(quantised, mixing)))), codebookLoss), multiply(commitment, 0.25));
      }, [latents, codebook.weight]),
    );
    const { value, grads } = await run();
    expectClose([await value.item()], await read("loss"));
    expectClose((await grads[0]!.data()) as Float32Array, await read("latents_gradient"));
    expectClose((await grads[1]!.data()) as Float32Array, await read("table_gradient"));
  });

  it("moves by the same averages", async () => {
    const read = await fixture();
    const codebook = new Codebook(codes, width, false, new InitialValues(0));
    const usage = new CodebookUsage(codes, width);
    codebook.weight.set(await read("table"));
    usage.counts.set(new Float32Array(codes).fill(1));
    usage.sums.set(await read("table"));
    const settings = { learning: "ema", decay: 0.95, reviveBelow: 0, reviveCandidates: 1 } as const;
    const random = new RandomGenerator(0);
    const update = compile((batch: Tensor) => {
      const found = codebook.quantise(batch);
      return { ...usage.update(codebook, found, settings, random, tensor(1)), index: found.index };
    });
    for (let step = 0; step < 2; step++) {
      await update(tensor(await read(`batch${step}`), { shape: [rows, width] }));
      expectClose((await codebook.weight.data()) as Float32Array, await read(`table${step}`));
      expectClose((await usage.counts.data()) as Float32Array, await read(`counts${step}`));
    }
  });
});
