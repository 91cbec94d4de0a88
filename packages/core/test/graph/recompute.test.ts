import { describe, expect, it } from "vitest";
import {
  compile,
  gelu,
  InitialValues,
  Llama,
  linear,
  Mixtral,
  matmul,
  Parameter,
  RandomGenerator,
  recompute,
  sum,
  type Tensor,
  tensor,
  updateRows,
  valueAndGrad,
} from "../../src/index.js";

const config = {
  vocabSize: 40,
  hiddenSize: 32,
  intermediateSize: 64,
  layers: 6,
  heads: 4,
  keyValueHeads: 2,
  headDim: 8,
  rmsNormEps: 1e-5,
  ropeTheta: 1e4,
  tieWordEmbeddings: true,
  maxPositions: 64,
  initializerRange: 0.2,
};
const [batch, sequence] = [4, 64];
const ids = (stream: number) => {
  const random = new InitialValues(stream);
  const data = Int32Array.from({ length: batch * sequence }, () => Math.floor(random.next() * config.vocabSize));
  return tensor(data, { shape: [batch, sequence] });
};

/** Loss and every gradient of a model, and the bytes that the program's temporaries take. */
async function differentiate(model: Llama | Mixtral, options: { recompute: boolean }) {
  const parameters = model.parameters();
  const balance = model instanceof Mixtral ? { balance: { form: "btx", coefficient: 0.01 } as const } : {};
  const run = compile((tokens: Tensor, targets: Tensor) => {
    const { value, grads } = valueAndGrad(() => model.loss(tokens, targets, { ...balance, ...options }), parameters);
    return { loss: value.loss, grads };
  });
  const [tokens, targets] = [ids(1), ids(2)];
  const { loss, grads } = await run(tokens, targets);
  const values = await Promise.all(grads.map((gradient) => gradient.data()));
  return { loss: await loss.item(), values, bytes: run.memory(tokens, targets).arenaBytes };
}

describe("recompute", () => {
  it.each([
    ["Llama", () => new Llama(config, 7)],
    ["Mixtral", () => new Mixtral({ ...config, experts: 4, expertsPerToken: 2 }, 7)],
  ])("gives the gradients of %s bit for bit, in less memory", async (_, make) => {
    const model = make();
    const plain = await differentiate(model, { recompute: false });
    const again = await differentiate(model, { recompute: true });
    expect(again.loss).toBe(plain.loss);
    expect(again.values).toEqual(plain.values);
    expect(again.values.every((gradient) => gradient.some((value) => value !== 0))).toBe(true);
    // Six blocks: one copy of the activations instead of six, beside gradients and inputs of blocks.
    expect(again.bytes).toBeLessThan(0.5 * plain.bytes);
  });

  it("differentiates with respect to all that a block reads", async () => {
    const initial = new InitialValues(1);
    const make = (shape: number[]) => new Parameter(shape, { data: initial.normal(shape, 1) });
    const [x, w, scale] = [make([3, 4]), make([4, 4]), make([4])];
    const gradientsOf = (wrap: typeof recompute) =>
      compile(() => {
        // Made outside of the block from parameters, and read inside.
        const outer = matmul(x, w);
        const block = (input: Tensor) => {
          const inner = scale.mul(2);
          return { y: gelu(linear(input, w)).mul(inner).add(outer), z: input.mul(outer), constant: 3 };
        };
        const { y, z, constant } = wrap(block, outer.mul(0.5));
        return valueAndGrad(() => sum(y.square()).add(sum(z)).mul(constant), [x, w, scale]);
      });
    const plain = await gradientsOf((block, ...inputs) => block(...inputs))();
    const again = await gradientsOf(recompute)();
    expect(await again.value.item()).toBe(await plain.value.item());
    for (const [i, gradient] of again.grads.entries()) {
      const expected = await plain.grads[i]!.data();
      // The order in which contributions are added differs here.
      (await gradient.data()).forEach((value, at) => {
        expect(value).toBeCloseTo(expected[at]!, 4);
      });
    }
  });

  it("draws the same random numbers again", async () => {
    const generator = new RandomGenerator(5);
    const w = new Parameter([64], { data: new Float32Array(64).fill(1) });
    const run = compile(() => {
      const masked = recompute((x: Tensor) => x.mul(generator.uniform([64])).square(), w);
      return { masked, ...valueAndGrad(() => sum(masked), [w]) };
    });
    const { masked, grads } = await run();
    // d (w u)² / dw = 2 (w u)² / w, and w is 1.
    const twice = (await masked.data()).map((value) => 2 * value);
    (await grads[0]!.data()).forEach((value, i) => {
      expect(value).toBeCloseTo(twice[i]!, 5);
    });
  });

  it("refuses a block that updates something", () => {
    const cache = new Parameter([1, 4, 2], { trainable: false });
    const run = compile((rows: Tensor, at: Tensor) => recompute((x: Tensor) => updateRows(cache, x, at), rows));
    const at = tensor(Int32Array.of(0));
    return expect(run(tensor([[[1, 2]]]), at)).rejects.toThrow(/cannot be computed again/);
  });
});
