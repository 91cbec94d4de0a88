// node native/lab/decode_bench.mjs [--model dense-1.1b] [--device cuda] [--batch 64] [--prompt 128] [--tokens 128] [--bandwidth GB/s]
// Batched generation with bf16 weights and caches: prints one JSON object with the time of a decoding step, tokens a second, and the share
// of --bandwidth at which weights and caches are read. Needs the built packages.
import { parseArgs } from "node:util";
import { core, median, modelConfig, openDevice, weightsPerToken } from "./bench_models.mjs";

const { createModel, Generator } = core;
const { values } = parseArgs({
  options: {
    model: { type: "string", default: "dense-1.1b" },
    device: { type: "string", default: "cuda" },
    batch: { type: "string", default: "64" },
    prompt: { type: "string", default: "128" },
    tokens: { type: "string", default: "128" },
    bandwidth: { type: "string" },
  },
});
const [batch, prompt, tokens] = [values.batch, values.prompt, values.tokens].map(Number);
const config = modelConfig(values.model, prompt + tokens);
const device = openDevice(values.device);
const model = createModel(config);
const generator = new Generator(model, batch, prompt + tokens, { cacheDtype: "bf16", weights: "bf16" });
const prompts = Array.from({ length: batch }, (_, row) =>
  Int32Array.from({ length: prompt }, (_, i) => (row * 31 + i * 7919) % config.vocabSize),
);

// The first token of a call waits for the prompt and for the copies of the weights; the others are decoding steps.
async function decode() {
  const arrivals = [];
  await generator.generate(prompts, {
    maxNewTokens: tokens,
    onToken: (row) => {
      if (row === batch - 1) arrivals.push(performance.now());
    },
  });
  return (arrivals.at(-1) - arrivals[0]) / 1000 / (arrivals.length - 1);
}
await decode();
device.resetPeak(); // what weights were staged in is gone
const seconds = median([await decode(), await decode(), await decode()]);
const keys = prompt + tokens / 2;
const bytes =
  2 * weightsPerToken(config) + batch * keys * config.layers * config.keyValueHeads * config.headDim * 2 * 2;
const gbps = bytes / seconds / 1e9;
const result = {
  name: `decoding ${values.model}, batch ${batch}, ${prompt} + ${tokens} tokens, bf16 weights and caches`,
  device: device.info.name,
  level: device.info.isa,
  milliseconds: seconds * 1e3,
  tokens_per_second: batch / seconds,
  gbps,
  ...(values.bandwidth ? { share: gbps / Number(values.bandwidth) } : {}),
  peak_bytes: device.memory().peak,
};
process.stdout.write(`${JSON.stringify(result, null, 1)}\n`);
