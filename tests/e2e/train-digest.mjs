// Trains a small mixture for some steps and prints a digest of every weight. Run by determinism.test.ts.
import { createHash } from "node:crypto";
import { AdamW, compile, gradients, Mixtral, RandomGenerator, tensor } from "@trefoil/core";

const model = new Mixtral(
  {
    vocabSize: 300,
    hiddenSize: 96,
    intermediateSize: 160,
    layers: 2,
    heads: 6,
    keyValueHeads: 2,
    headDim: 16,
    maxPositions: 128,
    rmsNormEps: 1e-5,
    ropeTheta: 1e4,
    tieWordEmbeddings: false,
    initializerRange: 0.05,
    experts: 4,
    expertsPerToken: 2,
  },
  11,
);
const parameters = model.parameters();
const optimizer = new AdamW(parameters, { learningRate: 3e-3 });
const random = new RandomGenerator(3);
const step = compile((tokens, targets) => {
  const weights = random.uniform([4, 128]).div(4 * 128);
  const { loss } = model.loss(tokens, targets, { weights, balance: { form: "btx", coefficient: 0.01 } });
  optimizer.apply(gradients(loss, parameters));
  return loss;
});
const batch = (seed) =>
  tensor(
    Int32Array.from({ length: 4 * 128 }, (_, i) => (i * 31 + seed * 17 + ((i * i) >> 3)) % 300),
    { shape: [4, 128] },
  );
let loss;
for (let i = 0; i < 6; i++) loss = await step(batch(i), batch(i + 1));
const digest = createHash("sha256");
for (const parameter of parameters) digest.update(new Uint8Array((await parameter.data()).buffer));
console.log(`${digest.digest("hex")} ${await loss.item()}`);
