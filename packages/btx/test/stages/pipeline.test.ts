import { existsSync, mkdirSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { evaluationBatches, logSoftmax, Mixtral, ModelFolder, readMetricsFile, tensor } from "@trefoil/core";
import { describe, expect, it } from "vitest";
import {
  averageModels,
  BitsPerByte,
  evaluateModel,
  finetuneMixture,
  firstChoices,
  makeTask,
  mix,
  mixWithRidgeRouter,
  OpenModel,
  quickstart,
  routingTable,
  trainBranches,
  trainSeed,
  withReplay,
} from "../../src/index.js";
import { temporaryFolder, writeCheckpoint } from "../checkpoints.js";
import { tinyDomains, tinySettings, tinySizes, tokenizer } from "./tiny.js";

const trainable = { maxPositions: 64, hiddenSize: 16, headDim: 4, intermediateSize: 24 };

async function weightsOf(path: string): Promise<Map<string, Float32Array>> {
  await using folder = await ModelFolder.open(path);
  const all = new Map<string, Float32Array>();
  for (const name of folder.tensors.keys()) all.set(name, await folder.readF32(name));
  return all;
}

describe("a mixture", () => {
  it("of N equal experts computes what the dense model computes, whatever the router", async () => {
    const folder = temporaryFolder();
    const seed = await writeCheckpoint(join(folder, "seed"), { seed: 3, config: trainable });
    const output = join(folder, "moe");
    await mix({ experts: [seed, seed, seed], output, router: { kind: "random", standardDeviation: 1 } });
    using dense = await OpenModel.open(seed);
    using mixture = await OpenModel.open(output);
    const tokens = tensor(tokenizer.encode("What one expert says, all say."), { shape: [1, 30] });
    const [one, all] = [await dense.model.logits(tokens).data(), await mixture.model.logits(tokens).data()];
    const largest = Math.max(...one.map(Math.abs));
    expect(largest).toBeGreaterThan(0.1);
    // The mixture adds two gated copies: float32 rounding through two layers.
    for (let i = 0; i < one.length; i++) expect(Math.abs(one[i]! - all[i]!)).toBeLessThan(2e-5 * largest);
  });
});

describe("bits per byte", () => {
  it("equals the log-probabilities of the bytes, summed by hand", async () => {
    const folder = temporaryFolder();
    const [domain] = await tinyDomains(folder);
    using opened = await OpenModel.open(await writeCheckpoint(join(folder, "model"), { seed: 5, config: trainable }));
    const window = { batch: 2, sequence: 32, windows: 5 };
    const found = await new BitsPerByte(opened.model, tokenizer).of(domain!.heldOut, window);
    let [bits, bytes] = [0, 0];
    for (const { tokens, targets } of evaluationBatches(domain!.heldOut, { batch: 1, sequence: 32, maxWindows: 5 })) {
      const scores = await logSoftmax(opened.model.logits(tensor(tokens, { shape: [1, 32] }))).data();
      targets.forEach((target, t) => {
        if (target < 0) return;
        bits -= scores[t * 258 + target]! / Math.LN2;
        if (target < 256) bytes++;
      });
    }
    expect(found).toBeCloseTo(bits / bytes, 4);
  });
});

describe("the stages", () => {
  it("seed, branch, average, mix, finetune and evaluate, from folder to folder", async () => {
    const folder = temporaryFolder();
    const at = (name: string) => join(folder, name);
    const domains = await tinyDomains(folder);
    const settings = tinySettings;
    expect(
      await trainSeed({ sizes: tinySizes, domains, tokenizer, settings, output: at("seed"), run: at("seed-run") }),
    ).toBe(true);
    const losses = (await readMetricsFile(at("seed-run/metrics.jsonl"))).map(({ values }) => values.loss!);
    expect(losses).toHaveLength(settings.steps);
    expect(losses.at(-1)!).toBeLessThan(losses[0]!);

    const branch = { seed: at("seed"), domains, replay: 0.25, settings };
    await trainBranches({ ...branch, scope: "feed-forward", output: at("experts"), run: at("experts-run") });
    await trainBranches({ ...branch, scope: "all", only: ["prose"], output: at("whole"), run: at("whole-run") });
    expect(existsSync(at("whole/arithmetic"))).toBe(false);
    const [seed, expert, whole] = [
      await weightsOf(at("seed")),
      await weightsOf(at("experts/prose")),
      await weightsOf(at("whole/prose")),
    ];
    for (const [name, values] of seed) {
      expect(JSON.stringify(expert.get(name)) === JSON.stringify(values), name).toBe(!name.includes(".mlp."));
      expect(whole.get(name), name).not.toEqual(values);
    }

    const experts = [at("experts/arithmetic"), at("experts/prose"), at("seed")];
    await averageModels({ models: experts, output: at("average") });
    const gate = "model.layers.0.mlp.up_proj.weight";
    const sources = await Promise.all(experts.map(async (path) => (await weightsOf(path)).get(gate)!));
    (await weightsOf(at("average"))).get(gate)!.forEach((value, k) => {
      expect(value).toBeCloseTo(sources.reduce((sum, source) => sum + source[k]!, 0) / 3, 6);
    });

    const texts = domains.map(({ train: file }, expert) => ({ file, expert }));
    const ridge = { tokens: 2048, batch: 4, sequence: 32, sharpness: 8 };
    // What is mixed on the way has no name that could be somebody's.
    mkdirSync(at("mixture.unrouted"));
    const before = readdirSync(folder);
    await mixWithRidgeRouter({ experts, output: at("mixture") }, texts, ridge);
    expect(readdirSync(folder).sort()).toEqual([...before, "mixture"].sort());
    expect(JSON.parse(readFileSync(at("mixture/btx_mix.json"), "utf8")).router).toEqual({
      kind: "ridge",
      lambda: 1e-3,
      ...ridge,
      experts: [0, 1],
    });
    const again = mixWithRidgeRouter({ experts, output: at("mixture") }, texts, ridge);
    await expect(again).rejects.toMatchObject({ code: "TREFOIL_OUTPUT_EXISTS" });

    const balance = { form: "btx", coefficient: 0.01 } as const;
    const finetune = { model: at("mixture"), domains, balance, settings };
    await finetuneMixture({ ...finetune, scope: "router", output: at("routed"), run: at("routed-run") });
    await finetuneMixture({ ...finetune, scope: "all-but-experts", output: at("tuned"), run: at("tuned-run") });
    const [mixed, routed, tuned] = [
      await weightsOf(at("mixture")),
      await weightsOf(at("routed")),
      await weightsOf(at("tuned")),
    ];
    for (const [name, values] of mixed) {
      const router = name.endsWith(".block_sparse_moe.gate.weight");
      expect(JSON.stringify(routed.get(name)) !== JSON.stringify(values), name).toBe(router);
      expect(JSON.stringify(tuned.get(name)) !== JSON.stringify(values), name).toBe(
        router || !name.includes(".experts."),
      );
    }
    expect((await readMetricsFile(at("tuned-run/metrics.jsonl")))[0]!.values.balance!).toBeGreaterThan(0.9);

    using opened = await OpenModel.open(at("tuned"));
    const window = { batch: 4, sequence: 32, windows: 8 };
    const scores = await evaluateModel(opened, "tuned", domains, {
      ...window,
      tasks: [
        makeTask("arithmetic", { count: 10, heldOutShare: 0.1 }),
        makeTask("programs", { count: 2, heldOutShare: 0.1 }),
      ],
    });
    expect(Object.keys(scores.bitsPerByte)).toEqual(["arithmetic", "prose"]);
    expect(scores.exactMatch.arithmetic).toBeGreaterThanOrEqual(0);
    // A program takes more bytes than the model has positions.
    expect(scores.exactMatch.programs).toBe(null);
    const table = await routingTable(opened.mixture, domains, window);
    for (const { share, weight } of table) {
      for (const row of [...share, ...weight]) expect(row.reduce((a, b) => a + b, 0)).toBeCloseTo(1, 4);
    }
    const choices = await firstChoices(opened.mixture, tokenizer.encode("12+34=46\n"));
    expect(choices).toHaveLength(tinySizes.layers);
    for (const { expert, weight } of choices) {
      expect([...expert].every((e) => e >= 0 && e < 3)).toBe(true);
      expect([...weight].every((w) => w >= 0.5 && w <= 1)).toBe(true);
    }
  }, 120_000);

  it("routes separable domains to their experts by ridge regression alone", async () => {
    const folder = temporaryFolder();
    const domains = await tinyDomains(folder);
    // Weights of 0.5 spread embeddings widely: digits and letters are told apart linearly.
    const experts = [1, 1].map((seed, i) =>
      writeCheckpoint(join(folder, `e${i}`), { seed, config: { ...trainable, layers: 1 } }),
    );
    const texts = domains.map(({ train: file }, expert) => ({ file, expert }));
    const options = { experts: await Promise.all(experts), output: join(folder, "moe"), expertsPerToken: 1 };
    await mixWithRidgeRouter(options, texts, { tokens: 4096, batch: 4, sequence: 32 });
    using opened = await OpenModel.open(options.output);
    expect(opened.model).toBeInstanceOf(Mixtral);
    const [arithmetic, prose] = await routingTable(opened.mixture, domains, { batch: 4, sequence: 32, windows: 16 });
    expect(arithmetic!.share[0]![0]!).toBeGreaterThan(0.8);
    expect(prose!.share[0]![1]!).toBeGreaterThan(0.8);
  }, 60_000);

  it("refuses what does not fit", async () => {
    const folder = temporaryFolder();
    const domains = await tinyDomains(folder);
    const seed = await writeCheckpoint(join(folder, "seed"), { config: trainable });
    const shared = { domains, settings: tinySettings, output: join(folder, "out"), run: join(folder, "run") };
    const branch = { ...shared, seed, replay: 0, scope: "all" as const };
    await expect(trainBranches({ ...branch, only: ["poems"] })).rejects.toMatchObject({ code: "BTX_OPTIONS" });
    const balance = { form: "btx", coefficient: 0.01 } as const;
    const finetune = { ...shared, model: seed, scope: "all" as const, balance };
    await expect(finetuneMixture(finetune)).rejects.toMatchObject({ code: "BTX_MODEL" });
    await expect(finetuneMixture({ ...finetune, output: seed })).rejects.toMatchObject({
      code: "TREFOIL_OUTPUT_EXISTS",
    });
  });
});

describe("a diverging run", () => {
  it("stops, names the step and the op, and writes no model", async () => {
    const folder = temporaryFolder();
    const domains = await tinyDomains(folder);
    const output = join(folder, "seed");
    const settings = { ...tinySettings, learningRate: 1e30, warmupSteps: 0 };
    const failure = trainSeed({ sizes: tinySizes, domains, tokenizer, settings, output, run: join(folder, "run") });
    await expect(failure).rejects.toMatchObject({ code: "TREFOIL_NON_FINITE_LOSS", step: 2, op: expect.any(String) });
    expect(existsSync(output)).toBe(false);
  });
});

describe("withReplay", () => {
  it("gives the other domains equal parts of the replayed share", async () => {
    const domains = await tinyDomains(temporaryFolder());
    const third = { ...domains[0]!, name: "third" };
    const weights = withReplay(third, [...domains, third], 0.1).map(({ weight }) => weight);
    expect(weights).toEqual([0.05, 0.05, 0.9]);
    expect(withReplay(third, [third], 0.1)).toEqual([{ domain: third, weight: 1 }]);
  });
});

describe("quickstart", () => {
  const small = (run: string) => ({
    run,
    domains: { prose: "@prose", arithmetic: "@arithmetic" },
    heldOutShare: 0.1,
    maxBytes: 60_000,
    sizes: tinySizes,
    train: tinySettings,
    seed: { steps: 4, learningRate: 1e-2 },
    branch: { steps: 2, learningRate: 1e-2, replay: 0.1, scope: "all" as const },
    router: { kind: "random" as const },
    finetune: { steps: 2, learningRate: 1e-2, form: "btx" as const, coefficient: 0.01 },
    windows: 4,
    problems: 4,
  });

  it("scores every model, and stopped by a signal it goes on to the same scores", async () => {
    const folder = temporaryFolder();
    const whole = await quickstart(small(join(folder, "whole")));
    expect(whole!.scores.map(({ model }) => model)).toEqual([
      "seed",
      "expert prose",
      "expert arithmetic",
      "average of all",
      "mixture",
      "mixture, finetuned",
    ]);
    const controller = new AbortController();
    const options = small(join(folder, "stopped"));
    const timer = setInterval(() => {
      // The first line of metrics is there: the seed is being trained.
      if (
        existsSync(join(folder, "stopped/seed/metrics.jsonl")) &&
        readFileSync(join(folder, "stopped/seed/metrics.jsonl")).length > 0
      )
        controller.abort();
    }, 1);
    const stopped = await quickstart({ ...options, signal: controller.signal }).catch((error: Error) => {
      expect(error.name).toBe("AbortError");
    });
    clearInterval(timer);
    expect(stopped).toBeUndefined();
    expect(await quickstart({ ...options, resume: true })).toEqual(whole);
  }, 120_000);
});
