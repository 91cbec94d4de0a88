// Whole models on a device whose memory is not the host's: the CUDA kernels on the emulator, against the CPU.
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { expect, it, onTestFinished } from "vitest";
import {
  AdamW,
  compile,
  Device,
  device,
  Generator,
  generate,
  Llama,
  linear,
  loadModel,
  Mixtral,
  Parameter,
  saveModel,
  setDefaultDevice,
  type Tensor,
  tensor,
  valueAndGrad,
} from "../../src/index.js";

const library = fileURLToPath(
  new URL("../../../../native/build/emulated/libtrefoil_cuda_emulated.so", import.meta.url),
);
const cpu = device("cpu");
const cuda = new Device("cuda_emulated", { library, precision: "f32" });
const bf16 = new Device("cuda_emulated", { library, precision: "bf16" });
const bf16Products = new Device("cuda_emulated", { library, precision: "bf16-products" });

const sizes = {
  vocabSize: 40,
  hiddenSize: 16,
  intermediateSize: 24,
  layers: 2,
  heads: 4,
  keyValueHeads: 2,
  headDim: 4,
  rmsNormEps: 1e-5,
  ropeTheta: 1e4,
  tieWordEmbeddings: false,
  maxPositions: 32,
  initializerRange: 0.3,
};
const models = {
  llama: () => new Llama(sizes, 1),
  mixtral: () => new Mixtral({ ...sizes, experts: 4, expertsPerToken: 2 }, 2),
};
const shape = [2, 9];
const tokens = Int32Array.from({ length: 18 }, (_, i) => (i * i + 3) % 40);
const targets = tokens.map((_, i) => ((i + 1) % 9 === 0 ? -1 : tokens[i + 1]!));

function on(target: Device): void {
  setDefaultDevice(target);
  onTestFinished(() => setDefaultDevice(cpu));
}

function training(model: Llama | Mixtral) {
  const optimizer = new AdamW(model.parameters(), { learningRate: 0.01, weightDecay: 0.1, clipNorm: 1 });
  const step = compile((ids: Tensor, wanted: Tensor, weights: Tensor) => {
    const { value, grads } = valueAndGrad(() => model.loss(ids, wanted, { weights }).loss, model.parameters());
    return { loss: value, norm: optimizer.apply(grads).gradientNorm };
  });
  const weights = tensor(new Float32Array(18).fill(1 / 16), { shape });
  return { step, batch: [tensor(tokens, { shape }), tensor(targets, { shape }), weights] as const };
}

async function train(model: Llama | Mixtral, steps: number): Promise<number[]> {
  const { step, batch } = training(model);
  const losses: number[] = [];
  for (let i = 0; i < steps; i++) {
    const { loss, norm } = await step(...batch);
    expect(Number.isFinite(await norm.item())).toBe(true);
    losses.push(await loss.item());
  }
  return losses;
}

it.each(Object.entries(models))("trains a %s as the CPU does", async (_name, make) => {
  const expected = await train(make(), 6);
  on(cuda);
  const actual = await train(make(), 6);
  expect(expected.at(-1)).toBeLessThan(expected[0]! - 0.1);
  // f32 sums in another order, through six steps of Adam.
  for (const [i, loss] of expected.entries()) expect(Math.abs(actual[i]! - loss), `step ${i}`).toBeLessThan(1e-3);
});

it.each(Object.entries(models))("trains a %s with bf16 activations as in f32", async (_name, make) => {
  on(cuda);
  const expected = await train(make(), 6);
  on(bf16);
  const actual = await train(make(), 6);
  expect(actual).not.toEqual(expected);
  for (const [i, loss] of expected.entries()) expect(Math.abs(actual[i]! / loss - 1), `step ${i}`).toBeLessThan(0.01);
  expect(actual.at(-1)).toBeLessThan(actual[0]! - 0.1);
});

it("keeps bf16 copies of weights that are the weights rounded, whoever writes them", async () => {
  const values = (seed: number) => Float32Array.from({ length: 256 }, (_, i) => Math.sin(i * seed));
  const x = tensor(values(3), { shape: [16, 16] });
  const run = async (target: Device) => {
    on(target);
    const weight = new Parameter([16, 16], { data: values(1) });
    const optimizer = new AdamW([weight], { learningRate: 0.1 });
    const step = compile((input: Tensor) => {
      const { value, grads } = valueAndGrad(() => linear(input, weight).square().mean(), [weight]);
      optimizer.apply(grads);
      return value;
    });
    const halve = compile((factor: number) => weight.assign(weight.mul(factor)));
    const losses: number[] = [];
    const once = async () => losses.push(await (await step(x)).item());
    await once();
    await once();
    weight.set(values(2));
    await once();
    weight.assign(weight.mul(0.5));
    await once();
    await halve(0.5);
    await once();
    await once();
    return { losses, text: step.inspect(x) };
  };
  const copied = await run(bf16);
  const packed = await run(bf16Products);
  expect(copied.text).toMatch(/adamw_\(.*:bf16\[16,16\]\)/);
  expect(packed.text).not.toContain("bf16");
  // A product rounds weights as a copy does.
  expect(copied.losses).toEqual(packed.losses);
  expect(new Set(copied.losses).size).toBe(6);
});

it("frees the bf16 copy of a weight with the weight", async () => {
  on(bf16);
  const weight = new Parameter([16, 16], { data: new Float32Array(256).fill(0.5) });
  const optimizer = new AdamW([weight], { learningRate: 0.1 });
  const step = compile((input: Tensor) => {
    const { value, grads } = valueAndGrad(() => linear(input, weight).square().mean(), [weight]);
    optimizer.apply(grads);
    return value;
  });
  await step(tensor(new Float32Array(256).fill(1), { shape: [16, 16] }));
  // Programs that read them hold both: memory is free once they are gone too.
  const storage = (weight.attached[0] as Parameter).storage(() => {
    throw new Error("there is no copy");
  });
  expect(storage.disposed).toBe(false);
  weight.dispose();
  expect(storage.disposed).toBe(true);
});

it("generates and writes checkpoints from device memory", async () => {
  const folder = mkdtempSync(join(tmpdir(), "trefoil-emulated-"));
  onTestFinished(() => rmSync(folder, { recursive: true, force: true }));
  const prompts = [Int32Array.of(1, 2, 3), Int32Array.of(9)];
  const options = { maxNewTokens: 5, temperature: 0 } as const;
  const expected = await generate(models.llama(), prompts, options);
  on(cuda);
  const model = models.llama();
  expect((await generate(model, prompts, options)).map(({ tokens: made }) => [...made])).toEqual(
    expected.map(({ tokens: made }) => [...made]),
  );
  await saveModel(model, folder, { config: { ...sizes, family: "llama", eosTokenIds: [] }, overwrite: true });
  const { model: loaded } = await loadModel(folder);
  const there = [...loaded.namedParameters()];
  for (const [name, parameter] of model.namedParameters()) {
    const found = there.find(([other]) => other === name)?.[1];
    expect(await found?.data(), name).toEqual(await parameter.data());
  }
});

it.each(["f32", "bf16"] as const)("generates with bf16 activations and %s caches and weights", async (dtype) => {
  const prompts = [Int32Array.of(1, 2, 3), Int32Array.of(9)];
  const generated = async () => {
    const generator = new Generator(models.llama(), 2, 16, { cacheDtype: dtype, weights: dtype });
    return generator.generate(prompts, { maxNewTokens: 5, temperature: 0 });
  };
  on(cuda);
  const expected = await generated();
  on(bf16);
  const actual = await generated();
  for (const [row, { tokens: made }] of actual.entries()) {
    expect(made.length).toBe(expected[row]!.tokens.length);
    // The likeliest first token is ahead by more than rounding; later ones follow from it.
    expect(made[0]).toBe(expected[row]!.tokens[0]);
  }
});

it("names the instruction of a non-finite output", async () => {
  on(cuda);
  const log = compile((x: Tensor) => x.log());
  await expect(log.diagnose(tensor([1, -1]))).rejects.toThrow(/elementwise gave a value that is not finite/);
});
