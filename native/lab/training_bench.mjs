// node native/lab/training_bench.mjs --model dense-1.1b|moe-4x0.3b|tiny|tiny-moe [--device cuda] [--batch 4] [--sequence 2048] [--steps 10]
//   [--peak TFLOP/s]
// Whole training steps (forward, backward, clipping, AdamW, the loss read after each) of a Llama or a mixture, after two that warm up:
// prints one JSON object with the median, tokens a second, TFLOP/s, the share of --peak (MFU), what a step costs beyond one that nobody
// waits for, and memory. Needs the built packages.
import { parseArgs } from "node:util";
import { core, median, modelConfig, openDevice, weightsPerToken } from "./bench_models.mjs";

const { AdamW, compile, createModel, gradients, tensor } = core;
const { values } = parseArgs({
  options: {
    model: { type: "string", default: "dense-1.1b" },
    device: { type: "string", default: "cuda" },
    batch: { type: "string", default: "4" },
    sequence: { type: "string", default: "2048" },
    steps: { type: "string", default: "10" },
    peak: { type: "string" },
  },
});
const [batch, sequence, steps] = [values.batch, values.sequence, values.steps].map(Number);
const config = modelConfig(values.model, sequence);
const device = openDevice(values.device);
const model = createModel(config);
const parameters = model.parameters();
const optimizer = new AdamW(parameters, { learningRate: 1e-4 });
const step = compile((tokens, targets) => {
  const { loss } = model.loss(tokens, targets);
  optimizer.apply(gradients(loss, parameters));
  return loss;
});
const ids = Int32Array.from({ length: batch * sequence + 1 }, (_, i) => (i * 7919) % config.vocabSize);
const [tokens, targets] = [ids.slice(0, -1), ids.slice(1)].map((data) => tensor(data, { shape: [batch, sequence] }));

const times = [];
const losses = [];
for (let i = 0; i < steps + 2; i++) {
  if (i === 2) device.resetPeak(); // what weights were staged in is gone
  const start = performance.now();
  losses.push(await (await step(tokens, targets)).item());
  if (i >= 2) times.push((performance.now() - start) / 1000);
}
const seconds = median(times);
// The same steps, two on their way at any time: what is left is the device's.
const start = performance.now();
let before;
for (let i = 0; i < steps; i++) {
  const next = step(tokens, targets);
  if (before) losses.push(await (await before).item());
  before = next;
}
losses.push(await (await before).item());
const together = (performance.now() - start) / 1000 / steps;

// 6 operations per weight that a token meets, and causal attention's half of 12 L S H h, as model FLOP counts have it (PaLM, appendix B).
const { layers, heads, headDim } = config;
const tflops =
  (batch * sequence * (6 * weightsPerToken(config) + 6 * layers * sequence * heads * headDim)) / seconds / 1e12;
const result = {
  name: `training step ${values.model} ${batch}x${sequence}`,
  device: device.info.name,
  level: device.info.isa,
  activations: device.activations,
  parameters: model.parameterCount(),
  milliseconds: seconds * 1e3,
  milliseconds_ahead: together * 1e3,
  tokens_per_second: (batch * sequence) / seconds,
  tflops,
  ...(values.peak ? { peak_tflops: Number(values.peak), share: tflops / Number(values.peak) } : {}),
  arena_bytes: step.memory(tokens, targets).arenaBytes,
  peak_bytes: device.memory().peak,
  losses: [losses[0], losses.at(-1)],
};
process.stdout.write(`${JSON.stringify(result, null, 1)}\n`);
