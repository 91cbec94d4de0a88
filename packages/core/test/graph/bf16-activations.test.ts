// Which values of a program become bf16: read off the printed program, which the emulated CUDA backend plans but does not run here.
import { fileURLToPath } from "node:url";
import { beforeAll, describe, expect, it, onTestFinished } from "vitest";
import {
  AdamW,
  add,
  cast,
  compile,
  concat,
  conv2d,
  Device,
  device,
  gatherRows,
  gelu,
  gradients,
  groupNorm,
  Llama,
  layerNorm,
  linear,
  Mixtral,
  matmul,
  multiply,
  Parameter,
  setDefaultDevice,
  silu,
  softmax,
  type Tensor,
  updateRows,
  upsampleNearest2,
  zeros,
} from "../../src/index.js";

const library = fileURLToPath(
  new URL("../../../../native/build/emulated/libtrefoil_cuda_emulated.so", import.meta.url),
);
const cpu = device("cpu");
let bf16: Device;
let bf16Products: Device;
beforeAll(() => {
  bf16 = new Device("cuda_emulated", { library, precision: "bf16" });
  bf16Products = new Device("cuda_emulated", { library, precision: "bf16-products" });
});

function on<R>(target: Device, body: () => R): R {
  setDefaultDevice(target);
  onTestFinished(() => setDefaultDevice(cpu));
  return body();
}

/** The instructions of a printed program with the dtype of every operand and result. */
function instructionsOf(text: string) {
  const dtypes = new Map([...text.matchAll(/(%\d+|\w+\d+):(\w+)\[/g)].map(([, name, dtype]) => [name!, dtype!]));
  const typesOf = (list: string) =>
    [...list.matchAll(/(%\d+|_|\w+\d+|[\d.]+)(?::\w+\[[\d,]*\])?(?:=[^,]+)?/g)].map(
      ([, name]) => dtypes.get(name!) ?? "",
    );
  return text.split("\n").flatMap((line) => {
    const [, results, op, operands] = /^(.*) = (\w+)\((.*?)\)/.exec(line) ?? [];
    return op ? [{ op, results: typesOf(results!), operands: typesOf(operands!), line }] : [];
  });
}

const inspect = (fn: (...args: Tensor[]) => unknown, ...args: Tensor[]) =>
  on(bf16, () => instructionsOf(compile(fn).inspect(...args)));

const sizes = {
  ...{ vocabSize: 64, hiddenSize: 64, intermediateSize: 128, layers: 3, heads: 4, keyValueHeads: 2, headDim: 16 },
  ...{ rmsNormEps: 1e-5, ropeTheta: 1e4, tieWordEmbeddings: false, maxPositions: 256, initializerRange: 0.02 },
};
const models = {
  llama: () => new Llama(sizes, 1),
  mixtral: () => new Mixtral({ ...sizes, experts: 4, expertsPerToken: 2 }, 2),
};
const batch = [zeros([4, 128], "i32"), zeros([4, 128], "i32")] as const;

function training(make: () => Llama | Mixtral, again = false) {
  const model = make();
  const optimizer = new AdamW(model.parameters(), { learningRate: 0.01 });
  return compile((ids: Tensor, wanted: Tensor) => {
    const { loss } = model.loss(ids, wanted, { recompute: again });
    optimizer.apply(gradients(loss, model.parameters()));
    return loss;
  });
}

describe.each(Object.entries(models))("a training step of a %s", (_name, make) => {
  it("stores bf16 between the kernels of a block", () => {
    const program = on(bf16, () => instructionsOf(training(make).inspect(...batch)));
    const operands = (op: string) => program.filter((each) => each.op === op).map((each) => each.operands);
    const results = (op: string) => program.filter((each) => each.op === op).map((each) => each.results);
    const all = (found: string[][], at: number, dtype: string) => {
      expect(found.length).toBeGreaterThan(0);
      for (const each of found) expect(each[at]).toBe(dtype);
    };
    for (const op of ["rms_norm", "swiglu", "swiglu_grad", "rope", "attention"]) all(results(op), 0, "bf16");
    for (const at of [0, 1, 2]) all(results("attention_grad"), at, "bf16");
    all(operands("linear_cross_entropy"), 0, "bf16");
    all(operands("rms_norm_grad"), 0, "bf16");
    // The residual stream and its gradient, statistics, what updates parameters, the loss, the routers' logits.
    all(operands("rms_norm"), 0, "f32");
    all(results("rms_norm"), 1, "f32");
    all(results("attention"), 1, "f32");
    all(results("rms_norm_grad"), 0, "f32");
    for (const found of operands("sum_squares")) expect(new Set(found)).toEqual(new Set(["f32"]));
    all(results("linear_cross_entropy"), 0, "f32");
    for (const [logits] of operands("moe_gate")) expect(logits).toBe("f32");
    // No product is left that would round an activation itself.
    const rounding = program.filter(
      ({ op, operands: [a, b] }) => op.includes("matmul") && (a === "f32" || b === "f32"),
    );
    expect(rounding.map(({ line }) => line)).toEqual([]);
  });

  it.each([false, true])("takes less memory, recomputed: %s", (again) => {
    const [half, whole] = [bf16, bf16Products].map((target) =>
      on(target, () => training(make, again).memory(...batch)),
    );
    // Half of the activations, but not of the residual stream nor of the gradients of parameters: 0.55 to 0.64 where this was written.
    expect(half!.arenaBytes).toBeLessThan(0.7 * whole!.arenaBytes);
  });
});

it("changes nothing on the CPU and where only products are rounded", () => {
  for (const target of [cpu, bf16Products])
    expect(on(target, () => training(models.llama).inspect(...batch))).not.toContain("bf16");
});

describe("what else reads a value decides", () => {
  const weight = () => new Parameter([32, 32]);
  const x = zeros([16, 32]);

  it("a chain between products is bf16", () => {
    const [up, down] = [weight(), weight()];
    const program = inspect((input) => linear(multiply(gelu(linear(input, up)), 2), down), x);
    expect(program.map(({ op, results }) => [op, results[0]])).toEqual([
      ["matmul", "bf16"],
      ["elementwise", "bf16"],
      ["matmul", "f32"],
    ]);
  });

  it("logits that a softmax reads are f32, also behind a chain", () => {
    const head = weight();
    const program = inspect((input) => softmax(multiply(linear(input, head), 0.5)), x);
    expect(program.flatMap(({ results }) => results)).not.toContain("bf16");
  });

  it("numbers that are looked up are not rounded", () => {
    const table = zeros([16, 1], "i32");
    const other = weight();
    const program = inspect(
      (index, input) => {
        const rank = gatherRows(add(cast(index, "f32"), 1000), cast(index, "i32"));
        return matmul(multiply(linear(input, other), add(rank, 1).reshape([16, 1])), other);
      },
      table,
      x,
    );
    const gathered = program.find(({ op }) => op === "gather_rows");
    expect(gathered?.operands[0]).toBe("f32");
    expect(gathered?.results[0]).toBe("f32");
  });

  it("a block of convolutions is bf16 between norm and product, and its residual stream is not", () => {
    const parameters = [[8], [8], [8, 3, 3, 8], [8], [8], [8, 3, 3, 8]].map((shape) => new Parameter(shape));
    const [weight1, bias1, kernel1, weight2, bias2, kernel2] = parameters as [Parameter, ...Parameter[]];
    const convolve = (input: Tensor, weight: Tensor, bias: Tensor, kernel: Tensor) =>
      conv2d(silu(groupNorm(input, weight, bias, { groups: 2 })), kernel, null, { padding: 1 });
    const optimizer = new AdamW(parameters, { learningRate: 0.1 });
    const program = inspect(
      (pictures) => {
        const input = pictures.mul(2);
        const inner = convolve(input, weight1, bias1!, kernel1!);
        const loss = add(input, convolve(inner, weight2!, bias2!, kernel2!))
          .square()
          .mean();
        optimizer.apply(gradients(loss, parameters));
        return loss;
      },
      zeros([2, 4, 4, 8]),
    );
    const typesOf = (op: string) => program.filter((each) => each.op === op);
    for (const { operands, results } of typesOf("group_norm"))
      expect([operands[0], results[0]]).toEqual(["f32", "bf16"]);
    for (const { operands, results } of typesOf("group_norm_grad"))
      expect([operands[0], operands[1], results[0] || "f32"]).toEqual(["bf16", "f32", "f32"]);
    for (const op of ["conv2d", "conv2d_input_grad", "conv2d_weight_grad"]) {
      expect(typesOf(op).length).toBe(2);
      for (const { operands } of typesOf(op)) expect(operands.slice(0, 2)).toEqual(["bf16", "bf16"]);
    }
    for (const { results } of typesOf("conv2d_weight_grad")) expect(results[0]).toBe("f32");
  });

  it("what layer norms give is bf16, also joined, and so is a picture that a convolution reads enlarged", () => {
    const parameters = [[32], [32], [32, 32], [8], [8], [8, 3, 3, 8]].map((shape) => new Parameter(shape));
    const [normWeight, normBias, keys, groupWeight, groupBias, kernel] = parameters as [Parameter, ...Parameter[]];
    const optimizer = new AdamW(parameters, { learningRate: 0.1 });
    const program = inspect(
      (rows, pictures) => {
        const normed = layerNorm(rows.mul(2), normWeight, normBias!);
        const loss = linear(concat([normed, layerNorm(rows.mul(3), normWeight, normBias!)]), keys!)
          .square()
          .mean();
        const enlarged = upsampleNearest2(pictures.mul(groupWeight!).add(groupBias!));
        const both = add(loss, conv2d(enlarged, kernel!, null, { padding: 1 }).square().mean());
        optimizer.apply(gradients(both, parameters));
        return both;
      },
      x,
      zeros([2, 4, 4, 8]),
    );
    const typesOf = (op: string) =>
      program.filter((each) => each.op === op).map(({ operands, results }) => [operands, results[0]]);
    for (const [operands, result] of typesOf("layer_norm")) expect([operands![0], result]).toEqual(["f32", "bf16"]);
    expect(typesOf("concat")).toContainEqual([["bf16", "bf16"], "bf16"]);
    expect(typesOf("layer_norm_grad").length).toBe(2);
    for (const [operands] of typesOf("layer_norm_grad")) expect(operands!.slice(0, 2)).toEqual(["bf16", "f32"]);
    expect(typesOf("upsample_nearest2")).toEqual([[["f32"], "bf16"]]);
    expect(typesOf("sum_pool2")).toEqual([[["bf16"], "f32"]]);
  });

  it("what is joined with a value that is f32 is f32", () => {
    const [first, second] = [weight(), weight()];
    const program = inspect((input, other) => linear(concat([linear(input, first), other.mul(2)]), second), x, x);
    const joined = program.find(({ op }) => op === "concat")!;
    expect([...joined.operands, joined.results[0]]).toEqual(["f32", "f32", "f32"]);
  });

  it("a value that is returned is f32, and several products share a rounded copy of it", () => {
    const [first, second] = [weight(), weight()];
    const program = inspect((input) => {
      const shared = input.mul(2);
      return [shared, linear(shared, first), linear(shared, second)];
    }, x);
    expect(program.map(({ op, results, operands }) => [op, results.join(), operands[0]])).toEqual([
      ["elementwise", "f32,bf16", ""],
      ["matmul", "f32", "bf16"],
      ["matmul", "f32", "bf16"],
    ]);
  });

  it("rows go into a cache as it is stored", () => {
    const [weights, position] = [weight(), zeros([1], "i32")];
    for (const dtype of ["f32", "bf16"] as const) {
      const cache = new Parameter([1, 20, 32], { dtype });
      const program = inspect(
        (input, at) => cache.assign(updateRows(cache, linear(input, weights).reshape([1, 16, 32]), at)),
        x,
        position,
      );
      expect(program.find(({ op }) => op === "update_rows_")?.operands[1]).toBe(dtype);
    }
  });
});
