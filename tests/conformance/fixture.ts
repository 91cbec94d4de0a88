import { fileURLToPath } from "node:url";
import { SafetensorsFile, type Tensor, tensor } from "@trefoil/core";
import { expect } from "vitest";

/** Path of a file beside the fixtures' scripts. */
export const fixturePath = (name: string): string => fileURLToPath(new URL(`fixtures/${name}`, import.meta.url));

/** Every tensor of a safetensors file, as host tensors. */
export async function readFixture(
  path: string,
): Promise<{ tensors: Map<string, Tensor>; metadata: Readonly<Record<string, string>> }> {
  await using file = await SafetensorsFile.open(path);
  const tensors = new Map<string, Tensor>();
  for (const [name, { dtype, shape }] of file.tensors) {
    const bytes = await file.read(name);
    const values = dtype === "I32" ? new Int32Array(bytes.slice().buffer) : new Float32Array(bytes.slice().buffer);
    tensors.set(name, tensor(values, { shape }));
  }
  return { tensors, metadata: file.metadata };
}

/** max |actual - expected| <= relative * max |expected| + absolute, and equal infinities and NaNs. */
export async function expectClose(
  what: string,
  actual: Tensor,
  expected: Tensor,
  relative: number,
  absolute = 1e-7,
): Promise<void> {
  expect(actual.shape, `${what}: shape`).toEqual(expected.shape);
  const [a, e] = [Float64Array.from(await actual.data()), Float64Array.from(await expected.data())];
  const scale = e.reduce(
    (most: number, value: number) => (Number.isFinite(value) ? Math.max(most, Math.abs(value)) : most),
    0,
  );
  const bound = relative * scale + absolute;
  for (let i = 0; i < e.length; i++) {
    const [x, y] = [a[i]!, e[i]!];
    if (Object.is(x, y) || x === y || Math.abs(x - y) <= bound) continue;
    expect.fail(`${what}[${i}] is ${x}, expected ${y} (bound ${bound})`);
  }
}
