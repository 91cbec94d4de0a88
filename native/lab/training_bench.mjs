// node native/lab/training_bench.mjs --model dense-1.1b|moe-4x0.3b|tiny|tiny-moe [--device cuda] [--batch 4] [--sequence 2048] [--steps 10]
//   [--peak TFLOP/s]
// Whole training steps (forward, backward, clipping, AdamW, the loss read after each) of a Llama or a mixture, after two that warm up:
// prints one JSON object with the median, tokens a second, TFLOP/s, and the share of --peak. Needs the built packages.
import { parseArgs } from "node:util";

const { AdamW, compile, createModel, Device, gradients, setDefaultDevice, tensor } = await import(
  new URL("../../packages/core/dist/index.js", import.meta.url).href
);

const large = { vocabSize: 32000 };
const models = {
  "dense-1.1b": {
    hiddenSize: 2048,
    intermediateSize: 5632,
    layers: 22,
    heads: 32,
    keyValueHeads: 4,
    headDim: 64,
    ...large,
  },
  "moe-4x0.3b": {
    ...{ hiddenSize: 1024, intermediateSize: 2816, layers: 24, heads: 16, keyValueHeads: 16, headDim: 64, ...large },
    ...{ experts: 4, expertsPerToken: 2 },
  },
  tiny: { hiddenSize: 32, intermediateSize: 64, layers: 1, heads: 2, keyValueHeads: 1, headDim: 16, vocabSize: 64 },
  "tiny-moe": {
    ...{ hiddenSize: 32, intermediateSize: 64, layers: 1, heads: 2, keyValueHeads: 1, headDim: 16, vocabSize: 64 },
    ...{ experts: 4, expertsPerToken: 2 },
  },
};

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
const sizes = models[values.model];
if (!sizes) throw new Error(`--model must be one of ${Object.keys(models).join(", ")}`);
const [batch, sequence, steps] = [values.batch, values.sequence, values.steps].map(Number);
const config = {
  ...{ rmsNormEps: 1e-5, ropeTheta: 1e4, tieWordEmbeddings: false, maxPositions: sequence, initializerRange: 0.02 },
  ...sizes,
};

const device = new Device(values.device);
setDefaultDevice(device);
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
  const start = performance.now();
  losses.push(await (await step(tokens, targets)).item());
  if (i >= 2) times.push((performance.now() - start) / 1000);
}
const seconds = times.sort((a, b) => a - b)[Math.floor(times.length / 2)];

// 6 operations per weight that a token meets, and causal attention's half of 12 L S H h, as model FLOP counts have it (PaLM, appendix B).
const {
  hiddenSize,
  intermediateSize,
  layers,
  heads,
  keyValueHeads,
  headDim,
  vocabSize,
  experts = 0,
  expertsPerToken = 1,
} = config;
const attention = hiddenSize * headDim * (2 * heads + 2 * keyValueHeads);
const perLayer = attention + 3 * hiddenSize * intermediateSize * expertsPerToken + hiddenSize * experts;
const flops =
  batch * sequence * (6 * (layers * perLayer + hiddenSize * vocabSize) + 6 * layers * sequence * heads * headDim);
const tflops = flops / seconds / 1e12;
const result = {
  name: `training step ${values.model} ${batch}x${sequence}`,
  device: device.info.name,
  level: device.info.isa,
  parameters: model.parameterCount(),
  milliseconds: seconds * 1e3,
  tokens_per_second: (batch * sequence) / seconds,
  tflops,
  ...(values.peak ? { share: tflops / Number(values.peak) } : {}),
  arena_bytes: step.memory(tokens, targets).arenaBytes,
  peak_bytes: device.memory().peak,
  losses: [losses[0], losses.at(-1)],
};
process.stdout.write(`${JSON.stringify(result, null, 1)}\n`);
