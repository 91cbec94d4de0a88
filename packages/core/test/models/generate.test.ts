import { describe, expect, it } from "vitest";
import {
  bf16ToF32,
  compile,
  Device,
  f32ToBf16,
  type Generation,
  Generator,
  generate,
  Llama,
  Mixtral,
  setDefaultDevice,
  type Tensor,
  tensor,
} from "../../src/index.js";

// The bounds here are those of f32 sums in another order. In bf16 precision the step that reads a cache and the pass over the whole sequence
// round at different places, which emulated.test.ts allows for.
const name = process.env.TREFOIL_DEVICE || "cpu";
if (name !== "cpu") setDefaultDevice(new Device(name, { precision: "f32" }));

const sizes = {
  vocabSize: 64,
  hiddenSize: 32,
  intermediateSize: 48,
  layers: 2,
  heads: 4,
  keyValueHeads: 2,
  headDim: 8,
  rmsNormEps: 1e-5,
  ropeTheta: 1e4,
  tieWordEmbeddings: false,
  maxPositions: 96,
  // Large enough that the logits are far apart and greedy choices are not ties.
  initializerRange: 0.3,
};
const models = {
  llama: () => new Llama(sizes, 1),
  mixtral: () => new Mixtral({ ...sizes, experts: 4, expertsPerToken: 2 }, 2),
};
const prompts = [Int32Array.of(1, 2, 3, 4, 5), Int32Array.of(9), Int32Array.of(7, 7, 20, 33, 41, 50, 63)];

describe.each(Object.entries(models))("generation with a %s", (_name, make) => {
  it("equals running the whole sequence again for every token", async () => {
    const model = make();
    const logits = compile((tokens: Tensor) => model.logits(tokens));
    const cached = await generate(model, prompts, { maxNewTokens: 12, temperature: 0 });
    for (const [row, prompt] of prompts.entries()) {
      const ids = [...prompt];
      for (let step = 0; step < 12; step++) {
        const scores = (await (
          await logits(tensor(Int32Array.from(ids), { shape: [1, ids.length] }))
        ).data()) as Float32Array;
        const last = scores.subarray((ids.length - 1) * sizes.vocabSize);
        const best = last.indexOf(Math.max(...last));
        const total = Math.log(last.reduce((sum, score) => sum + Math.exp(score - last[best]!), 0));
        expect(cached[row]!.tokens[step], `row ${row}, token ${step}`).toBe(best);
        expect(cached[row]!.logProbabilities[step]).toBeCloseTo(-total, 3);
        ids.push(best);
      }
    }
  });

  it("does not depend on what else is in the batch", async () => {
    const model = make();
    const together = await generate(model, prompts, { maxNewTokens: 8, temperature: 0 });
    for (const [row, prompt] of prompts.entries()) {
      const [alone] = await generate(model, [prompt], { maxNewTokens: 8, temperature: 0 });
      expect([...alone!.tokens]).toEqual([...together[row]!.tokens]);
    }
  });

  it("repeats for a seed, stops at an ending token, and reports each token", async () => {
    const model = make();
    const options = { maxNewTokens: 16, temperature: 1, topK: 8, topP: 0.9, seed: 5 };
    const seen: number[][] = [[], [], []];
    const first = await generate(model, prompts, { ...options, onToken: (row, token) => seen[row]!.push(token) });
    const second = await generate(model, prompts, options);
    expect(second).toEqual(first);
    expect(seen).toEqual(first.map(({ tokens }) => [...tokens]));
    const other = await generate(model, prompts, { ...options, seed: 6 });
    expect(other).not.toEqual(first);
    const end = first[0]!.tokens[3]!;
    const stopped = await generate(model, prompts, { ...options, eosTokenIds: [end] });
    expect(stopped[0]!.finished).toBe(true);
    expect([...stopped[0]!.tokens]).toEqual([...first[0]!.tokens.slice(0, first[0]!.tokens.indexOf(end) + 1)]);
  });
});

describe("a generator", () => {
  it("serves prompts of many lengths with one cache", async () => {
    const model = models.llama();
    using generator = new Generator(model, 1, 64);
    for (const prompt of prompts) {
      const [kept] = await generator.generate([prompt], { maxNewTokens: 6, temperature: 0 });
      const [fresh] = await generate(model, [prompt], { maxNewTokens: 6, temperature: 0 });
      expect([...kept!.tokens]).toEqual([...fresh!.tokens]);
    }
  });

  it("keeps close to f32 with a bf16 cache", async () => {
    const model = models.llama();
    const [exact] = await generate(model, [prompts[0]!], { maxNewTokens: 1, temperature: 0 });
    const [rounded] = await generate(model, [prompts[0]!], { maxNewTokens: 1, temperature: 0, cacheDtype: "bf16" });
    expect(rounded!.tokens).toEqual(exact!.tokens);
    // bf16 keeps 8 bits: keys and values are off by up to 2^-9 each.
    expect(Math.abs(rounded!.logProbabilities[0]! - exact!.logProbabilities[0]!)).toBeLessThan(0.1);
  });

  it.each(Object.entries(models))(
    "with bf16 weights equals a %s whose matrices were rounded, and follows them",
    async (_name, make) => {
      const model = make();
      using generator = new Generator(model, prompts.length, 64, { weights: "bf16" });
      const options = { maxNewTokens: 12, temperature: 0 };
      await generator.generate(prompts, options);
      for (const [name, parameter] of model.namedParameters()) {
        const values = (await parameter.data()) as Float32Array;
        // Other matrices than before; those that are multiplied by can be held by bf16, the embedding and the norms cannot.
        const other = values.map((value, i) => (i % 2 ? value : -value));
        if (parameter.rank > 1) parameter.set(name.includes("embed") ? other : bf16ToF32(f32ToBf16(other)));
      }
      const expected = await generate(model, prompts, options);
      const rows = await generator.generate(prompts, options);
      rows.forEach(({ tokens, logProbabilities }, row) => {
        expect([...tokens], `row ${row}`).toEqual([...expected[row]!.tokens]);
        // The same products in f32, summed in another order.
        logProbabilities.forEach((each, i) => {
          expect(each).toBeCloseTo(expected[row]!.logProbabilities[i]!, 4);
        });
      });
    },
  );

  it("refuses what does not fit, and says why", async () => {
    const model = models.llama();
    await expect(generate(model, [Int32Array.of()], { maxNewTokens: 4 })).rejects.toThrow(/prompt 0 is empty/);
    await expect(generate(model, [prompts[0]!], { maxNewTokens: 200 })).rejects.toThrow(
      /205 positions; the model has 96/,
    );
    expect(await generate(model, [], { maxNewTokens: 4 })).toEqual([]);
    for (const maxNewTokens of [-1, 1.5, Number.NaN])
      await expect(generate(model, [prompts[0]!], { maxNewTokens })).rejects.toThrow(/must be a whole number >= 0/);
    // Steps that were enqueued behind the one that fails leave no rejection unhandled, which would end the process.
    await expect(generate(model, prompts, { maxNewTokens: 8, temperature: -1 })).rejects.toThrow(/temperature >= 0/);
    expect(() => new Llama({ ...sizes, slidingWindow: 16 })).toThrow(/sliding_window 16 is shorter/);
  });
});

describe("a generator", () => {
  const options = { maxNewTokens: 12, temperature: 0 };
  const tokens = (rows: Generation[]) => rows.map((row) => [...row.tokens]);
  const others = [Int32Array.of(11, 12), Int32Array.of(13), Int32Array.of(5, 6, 7)];

  it("runs overlapping calls one after another, also behind one that fails", async () => {
    using generator = new Generator(models.llama(), 3, 40);
    const expected = [
      tokens(await generator.generate(prompts, options)),
      tokens(await generator.generate(others, options)),
    ];
    const [first, failing, second] = await Promise.allSettled([
      generator.generate(prompts, options),
      generator.generate(prompts, { ...options, maxNewTokens: 1000 }),
      generator.generate(others, options),
    ]);
    expect(failing.status).toBe("rejected");
    const made = [first, second].map((result) => result.status === "fulfilled" && tokens(result.value));
    expect(made).toEqual(expected);
  });
});

it.each<[unknown, unknown, RegExp]>([
  [["Hello"], {}, /prompt 0 is no Int32Array of tokens: encode text/],
  ["Hello", {}, /prompt 0 is no Int32Array/],
  [[Int32Array.of(1), [2, 3]], {}, /prompt 1 is no Int32Array/],
  [[Int32Array.of(1)], { maxTokens: 4 }, /generate has no option "maxTokens"; options are maxNewTokens, temperature/],
])("names a wrong argument of plain JavaScript: %j %j", async (given, options, message) => {
  const model = models.llama();
  const call = () => generate(model, given as Int32Array[], { maxNewTokens: 2, ...(options as object) });
  await expect(call()).rejects.toThrow(message);
  using generator = new Generator(model, 1, 40);
  const direct = generator.generate(given as Int32Array[], { maxNewTokens: 2, ...(options as object) });
  await expect(direct).rejects.toThrow(message);
});
