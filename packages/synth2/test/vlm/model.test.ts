import { ByteTokenizer, compile, gradients, Llama, linear, type Parameter, type Tensor, tensor } from "@trefoil/core";
import { describe, expect, it } from "vitest";
import { Captioner, Choices, VisionLanguageModel } from "../../src/index.js";

const language = new Llama(
  {
    vocabSize: 24,
    hiddenSize: 16,
    intermediateSize: 24,
    layers: 3,
    heads: 2,
    keyValueHeads: 1,
    headDim: 8,
    rmsNormEps: 1e-5,
    ropeTheta: 1e4,
    tieWordEmbeddings: false,
    maxPositions: 32,
    initializerRange: 0.3,
  },
  1,
);
const architecture = {
  patch: 1,
  pictureLayers: 1,
  placeDeviation: 0.3,
  latents: 3,
  width: 8,
  layers: 2,
  heads: 2,
  everyLayers: 2,
  gridSize: 2,
  codeWidth: 5,
  textWidth: 16,
  textLayers: 3,
};
const choices = new Choices(5);
const values = (size: number) => Float32Array.from({ length: size }, () => choices.next() * 2 - 1);
const pictures = tensor(values(2 * 4 * 5), { shape: [2, 4, 5] });
const tokens = tensor(
  Int32Array.from({ length: 12 }, () => choices.below(24)),
  { shape: [2, 6] },
);

const logitsOf = (model: VisionLanguageModel) =>
  compile(() => {
    const { hidden } = model.seeing(model.memories(pictures)).hidden(tokens);
    return linear(hidden, language.headWeight);
  });

describe("a vision-language model", () => {
  it("has a gated block before every second layer, and no parameter of its language model", () => {
    const model = new VisionLanguageModel(architecture, language, 2);
    expect(model.blocks).toHaveLength(2);
    const own = new Set(model.parameters());
    for (const parameter of language.parameters()) expect(own.has(parameter)).toBe(false);
  });

  it("with gates of 0 gives the language model's logits bit for bit, and others with open gates", async () => {
    const model = new VisionLanguageModel(architecture, language, 2);
    const alone = (await (await compile(() => language.logits(tokens))()).data()) as Float32Array;
    const closed = (await (await logitsOf(model)()).data()) as Float32Array;
    expect(new Uint32Array(closed.slice().buffer)).toEqual(new Uint32Array(alone.slice().buffer));
    model.blocks[1]!.attentionGate.set(Float32Array.of(0.5));
    const open = (await (await logitsOf(model)()).data()) as Float32Array;
    expect(Math.max(...open.map((value, i) => Math.abs(value - alone[i]!)))).toBeGreaterThan(1e-3);
  });

  it("captions as if every token were written from the beginning again", async () => {
    const model = new VisionLanguageModel(architecture, language, 4);
    for (const block of model.blocks) block.attentionGate.set(Float32Array.of(3));
    const tokenizer = new ByteTokenizer();
    const three = values(3 * 20);
    using captioner = new Captioner(model, { tokenizer, start: 1, ends: [23] }, { maxTokens: 6, batch: 2 });
    const captions = await captioner.caption(three, 3);
    expect(new Set(captions).size).toBeGreaterThan(1);
    for (const [i, caption] of captions.entries()) {
      const picture = tensor(three.slice(20 * i, 20 * (i + 1)), { shape: [1, 4, 5] });
      const ids = [1];
      while (ids.length < 7 && ids.at(-1) !== 23) {
        const read = tensor(Int32Array.from(ids), { shape: [1, ids.length] });
        const logits = await compile(() => {
          const { hidden } = model.seeing(model.memories(picture)).hidden(read);
          return linear(hidden, language.headWeight);
        })();
        const last = ((await logits.data()) as Float32Array).subarray(24 * (ids.length - 1));
        ids.push(last.indexOf(Math.max(...last)));
      }
      expect(caption).toBe(tokenizer.decode(ids.slice(1).filter((id) => id !== 23)).trim());
    }
  });

  it("has the gradients of finite differences", async () => {
    const model = new VisionLanguageModel(architecture, language, 3);
    for (const block of model.blocks) {
      block.attentionGate.set(Float32Array.of(0.7));
      block.mlpGate.set(Float32Array.of(-0.4));
    }
    const targets = tensor(
      Int32Array.from({ length: 12 }, (_, i) => (i % 5 === 4 ? -1 : (7 * i) % 24)),
      { shape: [2, 6] },
    );
    const weights = tensor(new Float32Array(12).fill(1 / 10), { shape: [2, 6] });
    const parameters = model.parameters();
    const run = compile(() => {
      const loss = model.loss(pictures, { tokens, targets, weights });
      return { loss, grads: gradients(loss, parameters) };
    });
    const { grads } = await run();
    const slopes = await Promise.all((grads as Tensor[]).map(async (grad) => (await grad.data()) as Float32Array));
    for (const [i, parameter] of parameters.entries()) {
      // A random direction, bent to the gradient: every element counts, and the slope stands out of the rounding.
      const [random, steepest] = [unit(values(parameter.size)), unit(slopes[i]!)];
      const direction = unit(random.map((value, j) => value + 2 * steepest[j]!));
      const expected = slopes[i]!.reduce((total, slope, j) => total + slope * direction[j]!, 0);
      const measured = await slopeAlong(parameter, direction, async () => await (await run()).loss.item());
      // Differences of a loss near 3 in single precision: rounding 3e-7 over the step each way.
      expect(Math.abs(measured - expected), `parameter ${i}`).toBeLessThan(1e-4 + 0.01 * Math.abs(expected));
    }
    expect(slopes.every((slope) => slope.some((value) => value !== 0))).toBe(true);
  });
});

function unit(vector: Float32Array): Float32Array {
  const norm = Math.hypot(...vector);
  return vector.map((value) => value / norm);
}

async function slopeAlong(parameter: Parameter, direction: Float32Array, loss: () => Promise<number>): Promise<number> {
  const at = (await parameter.data()).slice() as Float32Array;
  const step = 1e-2;
  const moved = async (by: number) => {
    parameter.set(at.map((value, j) => value + by * direction[j]!));
    return await loss();
  };
  // Five points: attention that is sharp from the start bends within a step.
  const near = (await moved(step)) - (await moved(-step));
  const far = (await moved(2 * step)) - (await moved(-2 * step));
  parameter.set(at);
  return (8 * near - far) / (12 * step);
}
