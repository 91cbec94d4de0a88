import { expect, it } from "vitest";
import { AdamW, clipGradients, compile, InvalidUseError, Parameter, type Tensor, tensor } from "../../src/index.js";

const values = async (x: Tensor) => [...(await x.data())];
const run = compile((a: Tensor, b: Tensor, maxNorm: number) => clipGradients([a, b], maxNorm));

it("scales gradients down together, by PyTorch's clip_grad_norm_", async () => {
  const [a, b] = [tensor([3, 0]), tensor([[4]])]; // of norm 5
  const clipped = await run(a, b, 2);
  expect(await clipped.gradientNorm.item()).toBe(5);
  const scale = 2 / (5 + 1e-6);
  for (const [gradient, expected] of [
    [clipped.gradients[0]!, [3 * scale, 0]],
    [clipped.gradients[1]!, [4 * scale]],
  ] as const)
    (await values(gradient)).forEach((value, i) => {
      expect(value).toBeCloseTo(expected[i]!, 6);
    });
  const short = await run(a, b, 6);
  expect(await values(short.gradients[0]!)).toEqual([3, 0]);
  expect((await run(a, b, Infinity)).gradients[1]!.shape).toEqual([1, 1]);
  expect(() => clipGradients([a], 0)).toThrow(InvalidUseError);
});

it("a norm that is not finite leaves no gradient finite, and AdamW changes nothing", async () => {
  const { gradients } = await run(tensor([1, 2]), tensor([[Number.NaN]]), 1);
  expect(await values(gradients[0]!)).toEqual([Number.NaN, Number.NaN]);
  const p = new Parameter([2], { data: Float32Array.of(1, 2) });
  const optimizer = new AdamW([p], { learningRate: 0.1, clipNorm: Infinity });
  await compile((gradient: Tensor) => optimizer.apply([gradient]))(gradients[0]!);
  expect(await values(p)).toEqual([1, 2]);
});
