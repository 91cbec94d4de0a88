import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import {
  InitialValues,
  Linear,
  loadModel,
  loadSafetensors,
  namedState,
  saveModel,
  type Tensor,
  tensor,
} from "@trefoil/core";
import { afterAll, beforeAll, expect, it } from "vitest";
import { learnAndWrite } from "../../docs/examples/character-model.js";
import { contrastiveStep, focal, infoNce } from "../../docs/examples/contrastive.js";
import { train } from "../../docs/examples/image-classifier.js";
import { exportMerged, finetune, loadAdapted } from "../../docs/examples/lora.js";

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "trefoil-examples-"));
});
afterAll(() => rm(folder, { recursive: true, force: true }));

/** Stripes along one of two directions, under noise. */
function stripes(count: number, seed: number) {
  const draw = new InitialValues(seed);
  const labels = Int32Array.from({ length: count }, () => Math.floor(2 * draw.next()));
  const images = new Float32Array(count * 64);
  labels.forEach((label, n) => {
    const [frequency, phase] = [1 + draw.next(), 6 * draw.next()];
    for (let at = 0; at < 64; at++) {
      const along = label === 0 ? at % 8 : Math.floor(at / 8);
      images[n * 64 + at] = Math.sin(frequency * along + phase) + draw.next() - 0.5;
    }
  });
  return { images: tensor(images, { shape: [count, 8, 8, 1] }), labels: tensor(labels) };
}

it("the image classifier learns, and a resumed run ends as an uninterrupted one", async () => {
  const plan = {
    batch: (step: number) => [stripes(16, 2 * step), stripes(16, 2 * step + 1)] as const,
    test: stripes(128, 1e6),
    classes: 2,
    totalSteps: 40,
  };
  const whole = await train({ ...plan, steps: 40, run: join(folder, "whole") });
  expect(whole.accuracy).toBeGreaterThan(0.9);
  const stopped = await train({ ...plan, steps: 20, run: join(folder, "resumed") });
  expect(stopped.loss).toBeGreaterThan(whole.loss);
  expect(await train({ ...plan, steps: 40, run: join(folder, "resumed") })).toEqual(whole);
});

it("LoRA: adapters learn while the base stays, are saved apart, and can be merged", async () => {
  const base = fileURLToPath(new URL("../conformance/fixtures/llama/gqa", import.meta.url));
  const adapters = join(folder, "adapters.safetensors");
  const merged = join(folder, "merged");
  const row = Int32Array.from({ length: 2 * 25 }, (_, i) => (7 * (i % 5)) % 96);
  const batch = tensor(row, { shape: [2, 25] });
  const losses = await finetune(base, adapters, new Array<Tensor>(60).fill(batch));
  expect(losses.at(-1)!).toBeLessThan(0.5 * losses[0]!);

  // Two parameters for each of four projections of two layers, and nothing else.
  const names = Object.keys(await loadSafetensors(adapters));
  expect(names).toHaveLength(16);
  expect(names.filter((name) => !/self_attn\.[qkvo]_proj\.lora_[ab]$/.test(name))).toEqual([]);

  const adapted = await loadAdapted(base, adapters);
  await exportMerged(base, adapters, merged);
  const models = [await loadModel(base), adapted, await loadModel(merged)];
  const [before, apart, after] = await Promise.all(
    models.map(async ({ model }) => [...(await model.logits(batch.slice(1, 0, 24)).data())]),
  );
  apart!.forEach((value, i) => {
    expect(after![i]).toBeCloseTo(value, 3);
  });
  expect(Math.max(...apart!.map((value, i) => Math.abs(value - before![i]!)))).toBeGreaterThan(0.1);

  // Files of these architectures have no place for adapters: they would be lost, or be in the way.
  await expect(saveModel(adapted.model, join(folder, "no"), { config: adapted.config })).rejects.toThrow(
    /"model.layers.0.self_attn.q_proj.lora_a" is no tensor of a Llama/,
  );
});

it("the character model learns a text and goes on with it", async () => {
  const text = "the quick brown fox jumps over the lazy dog. ".repeat(20);
  const { losses, written } = await learnAndWrite(text, "the quick", 150, 60);
  expect(losses.at(-1)!).toBeLessThan(0.1 * losses[0]!);
  expect(text).toContain(written);
});

it("the contrastive losses are their formulas, and the towers learn", async () => {
  // Two rows at right angles: log(1 + e^(-1/temperature)).
  const unit = tensor([
    [2, 0],
    [0, 3],
  ]);
  expect(await infoNce(unit, unit, 0.5).item()).toBeCloseTo(Math.log(1 + Math.exp(-2)), 6);
  const p = 1 / (1 + Math.exp(-1.5));
  const loss = focal(tensor([[1.5, 0]]), tensor(Int32Array.of(0)), 2);
  expect(await loss.item()).toBeCloseTo(-((1 - p) ** 2) * Math.log(p), 6);

  const initial = new InitialValues(3);
  const { step, optimizer, averages } = contrastiveStep(new Linear(6, 4, { initial }), new Linear(6, 4, { initial }));
  const a = tensor(new InitialValues(2).normal([16, 6], 1), { shape: [16, 6] });
  const losses: number[] = [];
  let average = 0;
  for (let i = 0; i < 60; i++) {
    losses.push(await (await step(a, a.mul(-1))).item());
    const [weight] = await optimizer.parameters[0]!.data();
    average = 0.99 * average + 0.01 * weight!;
  }
  expect(losses.at(-1)!).toBeLessThan(0.2 * losses[0]!);
  expect((await averages[0]!.data())[0]).toBeCloseTo(average, 5);
  expect([...namedState({ optimizer }).keys()]).toContain("optimizer.velocity.3");
});
