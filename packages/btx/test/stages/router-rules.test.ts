import { readFileSync } from "node:fs";
import { join } from "node:path";
import { type RouterConfig, readMetricsFile, readTransformerConfig, TokenFile, TokenFileWriter } from "@trefoil/core";
import { expect, it, onTestFinished } from "vitest";
import {
  BitsPerByte,
  type DomainTokens,
  type FinetuneOptions,
  finetuneMixture,
  mix,
  OpenModel,
  routingTable,
} from "../../src/index.js";
import { temporaryFolder, writeCheckpoint } from "../checkpoints.js";
import { tinyDomains, tinySettings, tokenizer } from "./tiny.js";

const config = { maxPositions: 64, hiddenSize: 16, headDim: 4, intermediateSize: 24 };
const window = { batch: 4, sequence: 32, windows: 8 };
const balance = { form: "btx", coefficient: 0.01 } as const;

async function mixture(folder: string): Promise<string> {
  const experts = [1, 2, 3].map((seed) => writeCheckpoint(join(folder, `e${seed}`), { seed, config }));
  const output = join(folder, "moe");
  await mix({ experts: await Promise.all(experts), output });
  return output;
}

it.each([
  [{ kind: "top-k" }, 3, "mixtral", 3],
  [{ kind: "raw-top-k" }, 2, "trefoil_mixtral", 2],
  [{ kind: "switch", capacityFactor: 1.25 }, undefined, "trefoil_mixtral", 1],
  [{ kind: "sample-top-1" }, undefined, "mixtral", 1],
  [{ kind: "sample-top-1", softFirstLayer: true }, undefined, "trefoil_mixtral", 1],
  [{ kind: "soft" }, undefined, "mixtral", 3],
] as const)(
  "%j is trained, kept in config.json, and used by whoever opens the folder",
  async (router: RouterConfig, expertsPerToken, modelType, choices) => {
    const folder = temporaryFolder();
    const domains = await tinyDomains(folder);
    const [output, run] = [join(folder, "out"), join(folder, "run")];
    const options = { model: await mixture(folder), domains, scope: "all" as const, balance, zLoss: 1e-3, output, run };
    const settings = { ...tinySettings, steps: 3 };
    await finetuneMixture({ ...options, router, settings, ...(expertsPerToken && { expertsPerToken }) });
    const json = JSON.parse(readFileSync(join(output, "config.json"), "utf8"));
    expect(json).toMatchObject({ model_type: modelType, num_experts_per_tok: choices });
    expect(await readTransformerConfig(output)).toMatchObject({ router, expertsPerToken: choices, family: "mixtral" });
    for (const { values } of await readMetricsFile(join(run, "metrics.jsonl"))) {
      const { loss, crossEntropy, balance: balanced, zLoss } = values as Record<string, number>;
      expect(loss).toBeCloseTo(crossEntropy! + 0.01 * balanced! + 1e-3 * zLoss!, 4);
    }
    using opened = await OpenModel.open(output);
    expect(opened.mixture.config.router).toEqual(router);
    const table = await routingTable(opened.mixture, domains, window);
    for (const { share } of table) for (const row of share) expect(row.reduce((a, b) => a + b, 0)).toBeCloseTo(1, 5);
    if (router.softFirstLayer)
      for (const { share } of table) for (const each of share[0]!) expect(each).toBeCloseTo(1 / 3, 5);
    // At inference nothing is drawn or dropped: the same score again.
    const score = () => new BitsPerByte(opened.model, tokenizer).of(domains[0]!.heldOut, window);
    expect(await score()).toBe(await score());
  },
  60_000,
);

it("a run that samples experts, stopped and resumed, ends with the same weights, bit for bit", async () => {
  const folder = temporaryFolder();
  const model = await mixture(folder);
  const [first, ...others] = await tinyDomains(folder);
  /** As many tokens, whatever the word. */
  const notes = async (word: string): Promise<DomainTokens> => {
    const path = join(folder, word);
    const writer = await TokenFileWriter.create(path, tokenizer, word);
    await writer.append(Buffer.from(word.repeat(500)), 2000);
    await writer.finish();
    const train = TokenFile.open(path);
    onTestFinished(() => train.close());
    return { ...first!, name: "notes", train };
  };
  const shared = {
    model,
    domains: [first!, ...others, await notes("lute")],
    scope: "all" as const,
    balance,
    settings: { ...tinySettings, steps: 30 },
  };
  const tune = (name: string, more: Partial<FinetuneOptions> = {}) =>
    finetuneMixture({
      ...shared,
      router: { kind: "sample-top-1" },
      output: join(folder, name),
      run: join(folder, `${name}-run`),
      ...more,
    });
  expect(await tune("whole")).toBe(true);
  const controller = new AbortController();
  const metrics = join(folder, "parts-run/metrics.jsonl");
  const timer = setInterval(() => {
    if (linesOf(metrics) >= 4) controller.abort();
  }, 1);
  const stopped = await tune("parts", { signal: controller.signal });
  clearInterval(timer);
  expect(stopped).toBe(false);
  const written = readFileSync(join(folder, "parts-run/config.yaml"), "utf8");
  const changes: [Partial<FinetuneOptions>, RegExp][] = [
    [{ settings: { ...shared.settings, learningRate: 1e-3 } }, /\(settings.learningRate 0.01, not 0.001\)/],
    [{ balance: { form: "hf", coefficient: 0.01 } }, /\(balance.form "btx", not "hf"\)/],
    [{ router: { kind: "switch", capacityFactor: 1.25 } }, /\(router.kind "sample-top-1", not "switch"\)/],
    [{ domains: [{ ...first!, weight: 2 }, ...shared.domains.slice(1)] }, /\(data.arithmetic.weight 1, not 2\)/],
    [{ domains: [first!, ...others, await notes("harp")] }, /\(data.notes.text "lute", not "harp"\)/],
  ];
  for (const [change, message] of changes)
    await expect(tune("parts", { ...change, resume: true })).rejects.toMatchObject({
      code: "TREFOIL_RESUME",
      message: expect.stringMatching(message),
    });
  expect(readFileSync(join(folder, "parts-run/config.yaml"), "utf8")).toBe(written);
  expect(await tune("parts", { resume: true })).toBe(true);
  const weights = (name: string) => readFileSync(join(folder, name, "model.safetensors"));
  expect(weights("parts").equals(weights("whole"))).toBe(true);
}, 60_000);

it("refuses numbers of experts that do not fit the rule", async () => {
  const folder = temporaryFolder();
  const options = {
    model: await mixture(folder),
    domains: [],
    scope: "all" as const,
    balance,
    settings: tinySettings,
    output: join(folder, "o"),
    run: join(folder, "r"),
  };
  await expect(finetuneMixture({ ...options, expertsPerToken: 4 })).rejects.toMatchObject({
    code: "BTX_OPTIONS",
    message: expect.stringContaining("has 3"),
  });
  await expect(finetuneMixture({ ...options, router: { kind: "soft" }, expertsPerToken: 2 })).rejects.toMatchObject({
    code: "BTX_OPTIONS",
  });
});

function linesOf(path: string): number {
  try {
    return readFileSync(path, "utf8").split("\n").length - 1;
  } catch {
    return 0;
  }
}
