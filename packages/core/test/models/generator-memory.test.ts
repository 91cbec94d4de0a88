import { expect, it } from "vitest";
import { defaultDevice, Generator, generate, Llama } from "../../src/index.js";

// A file, so a process, of its own: what other tests left to the garbage collector would change the counters.
it("gives all of its memory back when it is disposed, and is not used afterwards", async () => {
  const sizes = { hiddenSize: 32, intermediateSize: 48, layers: 2, heads: 4, keyValueHeads: 2, headDim: 8 };
  const model = new Llama({
    ...sizes,
    vocabSize: 64,
    rmsNormEps: 1e-5,
    initializerRange: 0.3,
    ropeTheta: 1e4,
    maxPositions: 96,
    tieWordEmbeddings: false,
  });
  const prompts = [Int32Array.of(1, 2, 3, 4, 5), Int32Array.of(9), Int32Array.of(7, 7, 20)];
  const options = { maxNewTokens: 12, temperature: 0 };
  // The model's own buffers, and the arena.
  await generate(model, prompts, options);
  await defaultDevice().synchronize();
  const { live, buffers } = defaultDevice().memory();
  const generator = new Generator(model, 3, 96);
  await generator.generate(prompts, options);
  expect(defaultDevice().memory().live).toBeGreaterThan(live + 3 * 96 * 2 * 8 * 4);
  generator.dispose();
  await defaultDevice().synchronize();
  expect(defaultDevice().memory()).toMatchObject({ live, buffers });
  await expect(generator.generate(prompts, options)).rejects.toThrow(/disposed/);
});
