// Layers that somebody puts in place of a model's own.
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, it } from "vitest";
import {
  add,
  argmax,
  ByteTokenizer,
  compile,
  FeedForward,
  generate,
  gradients,
  InitialValues,
  InvalidUseError,
  Linear,
  Llama,
  LlamaBlock,
  linear,
  Parameter,
  saveGguf,
  swiglu,
  type Tensor,
  tensor,
} from "../../src/index.js";

const sizes = { hiddenSize: 32, heads: 4, keyValueHeads: 2, headDim: 8, standardDeviation: 0.2 };
const config = {
  ...sizes,
  vocabSize: 258,
  intermediateSize: 48,
  layers: 2,
  maxPositions: 64,
  rmsNormEps: 1e-5,
  ropeTheta: 10_000,
  tieWordEmbeddings: true,
  initializerRange: 0.2,
};
const tokens = tensor(Int32Array.of(3, 1, 4, 1, 5, 9, 2, 6), { shape: [1, 8] });
const initial = new InitialValues(11);

/** Adds a product of its own to what the layer gives. */
class WithDelta extends Linear {
  readonly delta: Parameter;

  constructor(base: Linear) {
    const [outputs, inputs] = base.weight.shape as [number, number];
    super(inputs, outputs, { weight: base.weight, bias: false });
    this.delta = new Parameter([outputs, inputs], { data: initial.normal([outputs, inputs], 0.1) });
  }

  override forward(x: Tensor): Tensor {
    return add(super.forward(x), linear(x, this.delta));
  }
}

class FeedForwardWithDelta extends FeedForward {
  readonly delta: Parameter;

  constructor(base: FeedForward) {
    super({ ...config, standardDeviation: 0, gateUpProj: base.gateUpProj, downProj: base.downProj });
    this.delta = new Parameter(base.gateUpProj.shape, { data: initial.normal(base.gateUpProj.shape, 0.1) });
  }

  override forward(x: Tensor): Tensor {
    return linear(swiglu(add(linear(x, this.gateUpProj), linear(x, this.delta))), this.downProj);
  }
}

const projections = ["qProj", "kProj", "vProj", "oProj"] as const;

function adaptedModel(): { model: Llama; deltas: Map<string, Parameter> } {
  const model = new Llama(config, 5);
  for (const layer of model.model.layers) {
    for (const name of projections) layer.selfAttn[name] = new WithDelta(layer.selfAttn[name]);
    if (layer instanceof LlamaBlock) layer.mlp = new FeedForwardWithDelta(layer.mlp);
  }
  return { model, deltas: new Map([...model.namedParameters()].filter(([name]) => name.endsWith(".delta"))) };
}

it("a model computes with them what it computes with the sums as weights", async () => {
  const { model, deltas } = adaptedModel();
  expect(deltas.size).toBe(10);
  const adapted = await model.logits(tokens).data();
  const plain = new Llama(config, 5);
  const weights = plain.namedParameters();
  expect(await plain.logits(tokens).data()).not.toEqual(adapted);
  for (const [name, delta] of deltas) {
    const target = name.includes(".mlp.") ? name.replace("delta", "gate_up_proj") : name.replace("delta", "weight");
    weights.get(target)!.assign(add(weights.get(target)!, delta));
  }
  const merged = await plain.logits(tokens).data();
  adapted.forEach((value, i) => {
    expect(merged[i]).toBeCloseTo(value, 3);
  });
});

it("their gradients are those of differences", async () => {
  const { model, deltas } = adaptedModel();
  const parameters = [...deltas.values()];
  const lossOf = () => model.loss(tokens.slice(1, 0, 7), tokens.slice(1, 1)).loss;
  const run = compile(() => gradients(lossOf(), parameters));
  const evaluate = compile(lossOf);
  const found = await Promise.all((await run()).map((gradient) => gradient.data()));
  for (const [at, parameter] of parameters.entries()) {
    const values = (await parameter.data()) as Float32Array;
    const moved = async (by: number) => {
      parameter.set(values.map((value, i) => (i === 5 ? value + by : value)));
      return await (await evaluate()).item();
    };
    const difference = ((await moved(0.02)) - (await moved(-0.02))) / 0.04;
    parameter.set(values);
    // The loss is f32, and the step is large: 1e-3 is what both together leave.
    expect(found[at]![5], [...deltas.keys()][at]!).toBeCloseTo(difference, 3);
  }
});

it("decoding with the cache is the model with them", async () => {
  const { model } = adaptedModel();
  const prompt = Int32Array.of(3, 1, 4);
  const [generated] = await generate(model, [prompt], { maxNewTokens: 6, temperature: 0 });
  const sequence = [...prompt];
  for (let i = 0; i < 6; i++) {
    const logits = model.logits(tensor(Int32Array.from(sequence), { shape: [1, sequence.length] }));
    sequence.push((await argmax(logits.slice(1, -1)).data())[0]!);
  }
  expect([...generated!.tokens]).toEqual(sequence.slice(3));
});

it("a GGUF file has no place for them", async () => {
  const { model } = adaptedModel();
  const path = join(tmpdir(), "trefoil-adapters-refused.gguf");
  await expect(saveGguf(model, path, { tokenizer: new ByteTokenizer() })).rejects.toThrow(InvalidUseError);
});

it("parameters that are given must fit", () => {
  expect(() => new FeedForward({ ...config, downProj: new Parameter([2, 2]) })).toThrow(
    /FeedForward: a given parameter/,
  );
});
