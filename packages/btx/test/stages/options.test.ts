import { readFileSync } from "node:fs";
import { join } from "node:path";
import { readMetricsFile, TokenFile, TokenFileWriter, TokenMixture, tensor } from "@trefoil/core";
import { expect, it, vi } from "vitest";
import { finetuneMixture, mix, OpenModel, summarizeRouting, type TrainSettings, trainSeed } from "../../src/index.js";
import { temporaryFolder, writeCheckpoint } from "../checkpoints.js";
import { tinyDomains, tinySettings, tinySizes, tokenizer } from "./tiny.js";

const config = { maxPositions: 64, hiddenSize: 16, headDim: 4, intermediateSize: 24 };

/** Finetunes a mixture of three experts; tells weights and losses. */
async function workplace(kind: "top-k" | "sample-top-1") {
  const folder = temporaryFolder();
  const experts = [1, 2, 3].map((seed) => writeCheckpoint(join(folder, `e${seed}`), { seed, config }));
  const model = join(folder, "moe");
  await mix({ experts: await Promise.all(experts), output: model });
  const domains = await tinyDomains(folder);
  return async (name: string, more: Partial<TrainSettings>) => {
    const [output, run] = [join(folder, name), join(folder, `${name}-run`)];
    const balance = { form: "btx", coefficient: 0.01 } as const;
    const settings = { ...tinySettings, ...more };
    const router = { kind };
    expect(await finetuneMixture({ model, domains, scope: "all", balance, router, settings, output, run })).toBe(true);
    return {
      weights: readFileSync(join(output, "model.safetensors")),
      losses: (await readMetricsFile(join(run, "metrics.jsonl"))).map(({ values }) => values.loss!),
    };
  };
}

it.each(["top-k", "sample-top-1"] as const)(
  "%s: recomputed activations give the same weights bit for bit, with documents packed and parts accumulated",
  async (kind) => {
    const tune = await workplace(kind);
    for (const more of [{}, { accumulate: 2 }, { documents: "packed", accumulate: 4 }] as const) {
      const name = JSON.stringify(more).replace(/\W/g, "");
      const [kept, recomputed] = [await tune(`k${name}`, more), await tune(`r${name}`, { ...more, recompute: true })];
      expect(recomputed.weights.equals(kept.weights), name).toBe(true);
      expect(kept.losses).toHaveLength(tinySettings.steps);
      // Which expert a token draws changes the loss by more than six steps do.
      if (kind === "top-k") expect(kept.losses.at(-1)!).toBeLessThan(kept.losses[0]!);
    }
  },
  120_000,
);

it("parts of a batch accumulate to what the whole batch gives", async () => {
  const tune = await workplace("top-k");
  const [whole, parts] = [await tune("whole", { steps: 1 }), await tune("parts", { steps: 1, accumulate: 4 })];
  // The balancing term is a product of means: over parts it differs a little, at a coefficient of 0.01.
  expect(Math.abs(parts.losses[0]! - whole.losses[0]!)).toBeLessThan(5e-3);
});

it("what packing leaves over balances no router", async () => {
  const folder = temporaryFolder();
  const experts = [1, 2, 3].map((seed) => writeCheckpoint(join(folder, `e${seed}`), { seed, config }));
  const model = join(folder, "moe");
  await mix({ experts: await Promise.all(experts), output: model, router: { kind: "random", standardDeviation: 1 } });
  // Three documents to a row of 64, and four places over: every row says what one document says.
  const text = "abcdefghijklmnopqrst";
  const path = join(folder, "text.tokens");
  const writer = await TokenFileWriter.create(path, tokenizer);
  for (let i = 0; i < 40; i++) {
    await writer.append(tokenizer.encode(text), text.length);
    await writer.append([tokenizer.eosTokenId!], 0);
    writer.endDocument();
  }
  await writer.finish();
  const file = TokenFile.open(path);
  const domains = [{ name: "text", train: file, heldOut: file }];
  const balance = { form: "btx", coefficient: 1 } as const;
  const settings = { ...tinySettings, steps: 1, sequence: 64, documents: "packed" as const };
  const run = join(folder, "run");
  const options = { model, domains, scope: "all" as const, balance, zLoss: 1, settings, run };
  await finetuneMixture({ ...options, output: join(folder, "out") });
  file.close();
  const { values } = (await readMetricsFile(join(run, "metrics.jsonl")))[0]!;
  using opened = await OpenModel.open(model);
  const [shape, tokens] = [[1, text.length], tokenizer.encode(text)];
  const targets = Int32Array.from(tokens, (_, i) => tokens[i + 1] ?? tokenizer.eosTokenId!);
  const alone = opened.model.loss(tensor(tokens, { shape }), tensor(targets, { shape }), { balance, zLoss: 1 });
  expect(values.crossEntropy).toBeCloseTo(await alone.crossEntropy.item(), 4);
  expect(values.balance).toBeCloseTo(await alone.balance!.item(), 4);
  expect(values.zLoss).toBeCloseTo(await alone.zLoss!.item(), 4);
});

it("a batch that no memory holds is refused before it is filled", async () => {
  const folder = temporaryFolder();
  const options = { sizes: tinySizes, domains: await tinyDomains(folder), tokenizer };
  const settings = { ...tinySettings, batch: 2 ** 25, sequence: 64 };
  const next = vi.spyOn(TokenMixture.prototype, "next");
  await expect(
    trainSeed({ ...options, settings, output: join(folder, "seed"), run: join(folder, "run") }),
  ).rejects.toMatchObject({ code: "TREFOIL_OUT_OF_MEMORY" });
  expect(next).not.toHaveBeenCalled();
});

it("summarises routing: load, evenness, dead experts, what choices tell of domains", () => {
  const domain = (name: string, share: number[][]) => ({ domain: name, share, weight: share });
  const [apart, alike, one] = summarizeRouting([
    domain("a", [
      [1, 0, 0, 0],
      [0.25, 0.25, 0.25, 0.25],
      [0, 0, 1, 0],
    ]),
    domain("b", [
      [0, 1, 0, 0],
      [0.25, 0.25, 0.25, 0.25],
      [0, 0, 1, 0],
    ]),
  ]);
  expect(apart).toEqual({ load: [0.5, 0.5, 0, 0], evenness: 0.5, dead: [2, 3], domainInformation: 1 });
  expect(alike).toEqual({ load: [0.25, 0.25, 0.25, 0.25], evenness: 1, dead: [], domainInformation: 0 });
  expect(one).toEqual({ load: [0, 0, 1, 0], evenness: 0, dead: [0, 1, 3], domainInformation: 0 });
});
