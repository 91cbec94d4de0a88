import { describe, expect, it } from "vitest";
import {
  averagePool2,
  compile,
  conv2d,
  full,
  gradients,
  groupNorm,
  multiply,
  stopGradient,
  sum,
  type Tensor,
  tensor,
  upsampleNearest2,
  vqLookup,
} from "../../src/index.js";

const image = full([2, 5, 4, 3], 1);

describe("ops on images name what does not fit", () => {
  it.each([
    ["channels", () => conv2d(image, full([4, 3, 3, 2], 1)), /channels differ.*\[2, 5, 4, 3\], \[4, 3, 3, 2\]/],
    ["rank", () => conv2d(full([5, 4, 3], 1), full([4, 3, 3, 3], 1)), /\[N, H, W, C\]/],
    ["bias", () => conv2d(image, full([4, 3, 3, 3], 1), full([3], 1)), /one value per output channel/],
    ["kernel", () => conv2d(image, full([4, 7, 7, 3], 1), null, { padding: [1, 0] }), /does not fit/],
    ["stride", () => conv2d(image, full([4, 3, 3, 3], 1), null, { stride: 0 }), /stride >= 1/],
    ["groups", () => groupNorm(image, full([3], 1), full([3], 0), { groups: 2 }), /2 groups do not divide 3/],
    ["odd", () => averagePool2(image), /even height and width/],
    ["vector", () => upsampleNearest2(full([3], 1)), /\[N, H, W, C\]/],
    ["width", () => vqLookup(full([4, 3], 1), full([8, 2], 1)), /codebook \[V, D\]/],
    ["codes", () => vqLookup(full([4, 3], 1), full([0, 3], 1)), /codebook is empty/],
  ] as const)("%s", (_, build, message) => {
    expect(build).toThrow(message);
  });
});

it("pads each side as told", async () => {
  // Reads the last corner of a window: the image's own only where no zeros stand before it.
  const run = compile((x: Tensor, w: Tensor) => conv2d(x, w, null, { padding: [0, 1], stride: 2 }));
  const result = await run(
    tensor([1, 2, 3, 4], { shape: [1, 2, 2, 1] }),
    tensor([0, 0, 0, 1], { shape: [1, 2, 2, 1] }),
  );
  expect(result.shape).toEqual([1, 1, 1, 1]);
  expect([...(await result.data())]).toEqual([4]);
});

it("stopGradient is the identity that gradients do not pass", async () => {
  const run = compile((x: Tensor) => {
    const loss = sum(multiply(x, stopGradient(multiply(x, x))));
    return { loss, gradient: gradients(loss, [x])[0]! };
  });
  const { loss, gradient } = await run(tensor([1, 2, 3]));
  expect([...(await loss.data())]).toEqual([36]);
  expect([...(await gradient.data())]).toEqual([1, 4, 9]);
});
