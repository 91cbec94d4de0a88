import { expect, it } from "vitest";
import { compile, divide, full, InvalidUseError, multiply, type Tensor, tensor } from "../../src/index.js";

it("programs for 0 are not those for -0", async () => {
  const inverse = async (zero: number) =>
    (
      await tensor([1])
        .div(full([1], zero))
        .data()
    )[0];
  expect([await inverse(0), await inverse(-0)]).toEqual([Infinity, -Infinity]);

  const both = compile((x: Tensor) => [divide(1, multiply(x, 0)), divide(1, multiply(x, -0))]);
  const values = await Promise.all((await both(tensor([1]))).map(async (each) => (await each.data())[0]));
  expect(values).toEqual([Infinity, -Infinity]);

  const scaled = compile((x: Tensor, factor: number) => divide(1, multiply(x, factor)));
  expect((await (await scaled(tensor([1]), 0)).data())[0]).toBe(Infinity);
  expect((await (await scaled(tensor([1]), -0)).data())[0]).toBe(-Infinity);
});

it("a tensor of anything but numbers is refused", () => {
  for (const value of ["1", ["1"], [1, "2"], [1n], [null], [undefined], {}])
    expect(() => tensor(value as never), String(value)).toThrow(InvalidUseError);
});
