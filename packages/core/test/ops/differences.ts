import { compile, gradients, type Tensor, tensor } from "../../src/index.js";

/**
 * The gradient of `loss` at `values`, and its central differences. The step is large because the loss is f32: choose losses that are
 * smooth there.
 */
export async function gradientAndDifferences(
  loss: (x: Tensor) => Tensor,
  values: readonly number[],
  shape: readonly number[],
  step = 1e-2,
): Promise<{ gradient: number[]; differences: number[] }> {
  const at = (changed: readonly number[]) => tensor(Float32Array.from(changed), { shape });
  const gradientOf = compile((x: Tensor) => gradients(loss(x), [x])[0]!);
  const lossOf = compile(loss);
  const moved = async (i: number, by: number) =>
    await (await lossOf(at(values.map((value, j) => (i === j ? value + by : value))))).item();
  const differences: number[] = [];
  for (let i = 0; i < values.length; i++)
    differences.push(((await moved(i, step)) - (await moved(i, -step))) / (2 * step));
  return { gradient: [...(await (await gradientOf(at(values))).data())], differences };
}
