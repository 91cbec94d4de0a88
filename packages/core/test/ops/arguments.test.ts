// What TypeScript would refuse, as plain JavaScript writes it: an error that names it, and never another result.
import { expect, it } from "vitest";
import * as trefoil from "../../src/index.js";

const t = trefoil as unknown as Record<string, (...args: unknown[]) => unknown>;
type Loose = Record<string, (...args: unknown[]) => unknown>;
const x = trefoil.tensor([
  [1, 2],
  [3, 4],
]);
const loose = x as unknown as Loose;

it.each<[string, () => unknown, RegExp]>([
  [
    "sum(-1)",
    () => loose.sum!(-1),
    /sum takes options, not -1; options are axes, keepDims, as in sum\(\{ axes: -1 \}\)/,
  ],
  ["mean([0])", () => loose.mean!([0]), /mean takes options, not an array/],
  ["sum({ axis: 1 })", () => loose.sum!({ axis: 1 }), /sum has no option "axis"/],
  ["max(x, x)", () => t.max!(x, x), /max takes options, not Tensor\(f32\[2, 2\]\)/],
  ["softmax(0)", () => loose.softmax!(0), /softmax takes options, not 0.*\{ axis: 1 \}/],
  ["attention({ isCausal })", () => t.attention!(x, x, x, { isCausal: true }), /attention has no option "isCausal"/],
  ["transpose(0, 1)", () => loose.transpose!(0, 1), /transpose: the order of all axes is an array/],
  ["reshape(2, 2)", () => loose.reshape!(2, 2), /reshape: a shape is an array.*got 2/],
  ["zeros(3)", () => t.zeros!(3), /full: a shape is an array/],
  ["matmul(3)", () => loose.matmul!(3), /matmul: an operand must be a tensor, and is 3/],
  ["add('3')", () => loose.add!("3"), /an operand must be a tensor, and is 3/],
  ["add([1, 2])", () => loose.add!([1, 2]), /an operand must be a tensor, and is an array/],
  ["add(null)", () => loose.add!(null), /an operand must be a tensor, and is null/],
  ["log(0)", () => t.log!(0), /log: an operand must be a tensor, and is 0/],
  ["clamp(x, { min })", () => t.clamp!(x, { min: 0 }), /an operand must be a tensor, and is a plain object/],
  ["cast('float32')", () => loose.cast!("float32"), /cast: a dtype is "f32", "i32" or "bf16" \(dtypes float32\)/],
  ["tensor(…, { dtype })", () => t.tensor!([1], { dtype: "float32" }), /tensor: a dtype is/],
  ["tensor(…, shape)", () => t.tensor!([1, 2], [2, 1]), /write the shape as tensor\(values, \{ shape/],
  ["iota(0, 4)", () => t.iota!(0, 4), /iota: a dtype is/],
  [
    "Linear({ in })",
    () => new (trefoil.Linear as new (...args: unknown[]) => unknown)({ in: 3 }),
    /whole numbers >= 0/,
  ],
  [
    "AdamW({ lr })",
    () => new (trefoil.AdamW as new (...args: unknown[]) => unknown)([], { lr: 1 }),
    /AdamW has no option "lr"; options are learningRate/,
  ],
])("%s", (_text, use, message) => {
  expect(use).toThrow(message);
  expect(use).toThrow(trefoil.TrefoilError);
});

it("a tensor is no number, and no number is made of it", () => {
  const [a, b] = [x.sum(), x.mean()];
  const message = /a tensor is no number/;
  expect(() => a < b).toThrow(message);
  expect(() => Number(a)).toThrow(message);
  expect(() => (a as unknown as number) + 1).toThrow(message);
  expect(`${a}`).toBe("Tensor(f32[])");
  expect(JSON.stringify({ loss: a })).toBe('{"loss":"Tensor(f32[])"}');
});
