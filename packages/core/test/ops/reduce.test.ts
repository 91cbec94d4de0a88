import { expect, it } from "vitest";
import { gradients, max, mean, min, sum, zeros } from "../../src/index.js";

it.each([sum, mean, max, min])("%o of an empty batch has a gradient, as empty", async (op) => {
  const x = zeros([0, 3, 2]);
  const [dx] = gradients(sum(op(x, { axes: 1 })), [x]);
  expect(dx!.shape).toEqual([0, 3, 2]);
  expect(await dx!.data()).toEqual(new Float32Array(0));
});
