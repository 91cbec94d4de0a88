import { describe, expect, it } from "vitest";
import { InvalidUseError, nn, ResumeError, restoreParameters, ShapeError } from "../../src/index.js";

class Two extends nn.Module {
  readonly first = new nn.Linear(2, 3);
  readonly second = new nn.Linear(3, 2);
}

const contents = async (module: nn.Module) => Object.values(await module.state()).map(({ data }) => [...data]);

describe("loadState", () => {
  it("sets everything", async () => {
    const [from, to] = [new Two(), new Two()];
    to.loadState(await from.state());
    expect(await contents(to)).toEqual(await contents(from));
  });

  it("names what does not fit, and then changes nothing", async () => {
    const [from, to] = [await new Two().state(), new Two()];
    const before = await contents(to);
    const weight = from["second.weight"]!;
    const transposed = { ...weight, shape: [3, 2] };
    expect(() => to.loadState({ ...from, "second.weight": transposed })).toThrow(ShapeError);
    expect(() => to.loadState({ ...from, "second.weight": transposed })).toThrow(/"second.weight".*\[3, 2\], \[2, 3\]/);
    expect(() => to.loadState({ ...from, "second.weight": { data: new Float32Array(3) } })).toThrow(/3 values of f32/);
    expect(() => to.loadState({ ...from, "second.weight": { data: new Int32Array(6) } })).toThrow(/6 values of i32/);
    const { "second.bias": _, ...less } = from;
    expect(() => to.loadState(less)).toThrow(InvalidUseError);
    expect(await contents(to)).toEqual(before);
  });
});

it("a checkpoint of other shapes is refused before anything is restored", async () => {
  const module = new Two();
  const before = await contents(module);
  const stored = Object.fromEntries(
    Object.entries(await new Two().state()).map(([name, { shape, data }]) => [
      name,
      { dtype: "F32" as const, shape, data },
    ]),
  );
  const transposed = { ...stored["second.weight"]!, shape: [3, 2] };
  expect(() => restoreParameters(module.namedParameters(), { ...stored, "second.weight": transposed }, "here")).toThrow(
    ResumeError,
  );
  expect(await contents(module)).toEqual(before);
});
