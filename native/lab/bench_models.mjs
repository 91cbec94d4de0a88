// The models of the benches of whole steps, and their device. Needs the built packages.
// The reason alone, not where it was thrown: gpu.sh shows the end of what a step prints.
process.on("uncaughtException", (error) => {
  console.error(error.message);
  process.exit(1);
});

export const core = await import(new URL("../../packages/core/dist/index.js", import.meta.url).href);

// A billion normal numbers take half a minute, of every process: here they repeat after a prime number of elements.
const draws = new core.InitialValues(1).normal([65537], 1);
let begin = 0;
core.InitialValues.prototype.normal = (shape, standardDeviation) => {
  const scaled = draws.map((value) => value * standardDeviation);
  const values = new Float32Array(shape.reduce((a, b) => a * b, 1));
  begin = (begin + 7919) % scaled.length; // tensors of one shape differ
  let at = Math.min(scaled.length - begin, values.length);
  values.set(scaled.subarray(begin, begin + at));
  for (; at < values.length; at += scaled.length) values.set(scaled.subarray(0, values.length - at), at);
  return values;
};

const small = {
  hiddenSize: 32,
  intermediateSize: 64,
  layers: 1,
  heads: 2,
  keyValueHeads: 1,
  headDim: 16,
  vocabSize: 64,
};
const experts = { experts: 4, expertsPerToken: 2 };
const sizes = {
  "dense-1.1b": {
    ...{ hiddenSize: 2048, intermediateSize: 5632, layers: 22, heads: 32, keyValueHeads: 4, headDim: 64 },
    vocabSize: 32000,
  },
  "moe-4x0.3b": {
    ...{ hiddenSize: 1024, intermediateSize: 2816, layers: 24, heads: 16, keyValueHeads: 16, headDim: 64 },
    ...{ vocabSize: 32000, ...experts },
  },
  tiny: small,
  "tiny-moe": { ...small, ...experts },
};

/** A configuration by its name, for contexts of up to `maxPositions`. */
export function modelConfig(name, maxPositions) {
  const found = sizes[name];
  if (!found) throw new Error(`--model must be one of ${Object.keys(sizes).join(", ")}`);
  return { rmsNormEps: 1e-5, ropeTheta: 1e4, tieWordEmbeddings: false, maxPositions, initializerRange: 0.02, ...found };
}

/** The device by its name, which is then the default one. */
export function openDevice(name) {
  const device = new core.Device(name);
  core.setDefaultDevice(device);
  return device;
}

/** Weights that a token meets: the products of a forward pass are twice as many operations. The head once, no embeddings. */
export function weightsPerToken(config) {
  const { hiddenSize, intermediateSize, layers, heads, keyValueHeads, headDim, vocabSize } = config;
  const attention = hiddenSize * headDim * (2 * heads + 2 * keyValueHeads);
  const feedForward = 3 * hiddenSize * intermediateSize * (config.expertsPerToken ?? 1);
  return layers * (attention + feedForward + hiddenSize * (config.experts ?? 0)) + hiddenSize * vocabSize;
}

export const median = (values) => values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)];
