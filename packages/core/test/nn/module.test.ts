import { describe, expect, it } from "vitest";
import {
  InvalidUseError,
  nn,
  Parameter,
  RandomGenerator,
  ResumeError,
  restoreParameters,
  ShapeError,
  tensor,
} from "../../src/index.js";

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

it("finds modules and parameters in arrays, plain objects and maps, each once", () => {
  class Shared extends nn.Module {
    readonly towers = { leftSide: new nn.Linear(1, 1), right: [new nn.Linear(1, 1, { bias: false })] };
    readonly byName = new Map<string, nn.Module>([["query", new nn.RMSNorm(2)]]);
    readonly again = this.towers.leftSide;
    readonly settings = { sizes: [1, 2], self: this as unknown };
    readonly random = new RandomGenerator(1);
  }
  expect([...new Shared().namedParameters().keys()]).toEqual([
    "towers.left_side.weight",
    "towers.left_side.bias",
    "towers.right.0.weight",
    "by_name.query.weight",
  ]);
  expect(new Shared().parameterCount()).toBe(5);
});

it("a Linear takes the parameters it is given, as a tied output projection does", async () => {
  const embedding = new nn.Embedding(5, 3);
  class Tied extends nn.Module {
    readonly embedding = embedding;
    readonly head = new nn.Linear(3, 5, { weight: embedding.weight, bias: false });
  }
  expect([...new Tied().namedParameters().keys()]).toEqual(["embedding.weight"]);
  const y = await new Tied().head.forward(tensor([[1, 0, 0]])).data();
  const table = await embedding.weight.data();
  expect([...y]).toEqual([0, 3, 6, 9, 12].map((at) => table[at]));
  const bias = new Parameter([2], { data: Float32Array.of(1, 2) });
  expect(new nn.Linear(3, 2, { bias }).bias).toBe(bias);
  expect(() => new nn.Linear(3, 4, { weight: embedding.weight })).toThrow(ShapeError);
  expect(() => new nn.Linear(3, 5, { bias })).toThrow(ShapeError);
});

it("a convolution may have no bias", async () => {
  const layer = new nn.Conv2d(1, 1, { kernelSize: 1, bias: false });
  expect([...layer.namedParameters().keys()]).toEqual(["weight"]);
  const [weight] = await layer.weight.data();
  expect(await layer.forward(tensor([3], { shape: [1, 1, 1, 1] })).item()).toBeCloseTo(3 * weight!, 6);
});
