import { describe, expect, it } from "vitest";
import {
  AdamW,
  add,
  compile,
  concat,
  full,
  gelu,
  gradients,
  InvalidUseError,
  iota,
  matmul,
  multiply,
  NonFiniteError,
  Parameter,
  relu,
  reshape,
  ShapeError,
  silu,
  sum,
  type Tensor,
  tensor,
  updateRows,
  valueAndGrad,
} from "../../src/index.js";

const values = async (x: Tensor) => [...(await x.data())];

describe("eager use", () => {
  it("computes when the value is read", async () => {
    const x = tensor([
      [1, 2],
      [3, 4],
    ]);
    expect(await x.matmul(x).add(1).toArray()).toEqual([
      [8, 11],
      [16, 23],
    ]);
    expect(await x.sum({ axes: 0 }).toArray()).toEqual([4, 6]);
    expect(await full([2], 3).toArray()).toEqual([3, 3]);
  });

  it("leaves a tensor that compares as what it holds", async () => {
    const y = tensor([1, 2]).add(1);
    await y.data();
    expect(y).toEqual(tensor([2, 3]));
  });

  it("keeps i32 arithmetic whole", async () => {
    const n = iota(4).mul(3).add(-1);
    expect(n.dtype).toBe("i32");
    expect(await values(n)).toEqual([-1, 2, 5, 8]);
  });

  it("raises shape errors at the op, with both shapes", () => {
    expect(() => matmul(full([2, 3], 0), full([4, 5], 0))).toThrow(ShapeError);
    expect(() => matmul(full([2, 3], 0), full([4, 5], 0))).toThrow(/inner sizes differ, 3 and 4.*\[2, 3\], \[4, 5\]/);
    expect(() => add(full([2], 0), full([3], 0))).toThrow(/do not broadcast.*\[2\], \[3\]/);
    expect(() => tensor([[1, 2], [3]])).toThrow(/ragged/);
  });
});

describe("compile", () => {
  it("runs one program per signature", async () => {
    let traces = 0;
    const double = compile((x: Tensor) => {
      traces++;
      return x.mul(2);
    });
    expect(await values(await double(tensor([1, 2])))).toEqual([2, 4]);
    expect(await values(await double(tensor([3, 4])))).toEqual([6, 8]);
    expect(traces).toBe(1);
    expect(await values(await double(tensor([5])))).toEqual([10]);
    expect(traces).toBe(2);
  });

  it("takes and returns trees, with static values in the signature", async () => {
    const f = compile(({ x, scale }: { x: Tensor; scale: number }) => ({ scaled: x.mul(scale), parts: [x, x.add(1)] }));
    const { scaled, parts } = await f({ x: tensor([1, 2]), scale: 3 });
    expect(await values(scaled)).toEqual([3, 6]);
    expect(await values(parts[1]!)).toEqual([2, 3]);
    expect(await values((await f({ x: tensor([1, 2]), scale: 4 })).scaled)).toEqual([4, 8]);
  });

  it("tells arguments of other structure apart", async () => {
    const [one, ten] = [tensor([1]), tensor([10])];
    const difference = compile(({ x, y }: { x: Tensor; y: Tensor }) => x.sub(y));
    expect(await values(await difference({ x: ten, y: one }))).toEqual([9]);
    expect(await values(await difference({ y: one, x: ten }))).toEqual([9]);
    const either = compile(({ up, down }: { up?: Tensor; down?: Tensor }) => (up ? up.add(1) : down!.sub(1)));
    expect(await values(await either({ up: ten }))).toEqual([11]);
    expect(await values(await either({ down: ten }))).toEqual([9]);
    const first = compile((tree: readonly (readonly Tensor[])[]) => [tree[0]!.length, tree[0]![0]!.add(0)] as const);
    expect((await first([[one], [ten]]))[0]).toBe(1);
    expect((await first([[one, ten]]))[0]).toBe(2);
    const words = compile((x: Tensor, ...said: string[]) => ({ x: x.add(0), said: said.length }));
    expect((await words(one, "a", "b")).said).toBe(2);
    expect((await words(one, 'a","b')).said).toBe(1);
  });

  it("runs calls in order, awaited or not", async () => {
    const counter = new Parameter([], { data: Float32Array.of(0) });
    const next = compile(() => {
      const value = counter.add(1);
      counter.assign(value);
      return value;
    });
    const results = await Promise.all(Array.from({ length: 50 }, () => next()));
    expect(await Promise.all(results.map((value) => value.item()))).toEqual(
      Array.from({ length: 50 }, (_, i) => i + 1),
    );
    expect([...(await counter.data())]).toEqual([50]);
  });

  it("reads an assigned parameter as its new value, and returns the old one when asked", async () => {
    const p = new Parameter([2], { data: Float32Array.of(1, 2) });
    const f = compile(() => {
      const before = p.mul(1);
      p.assign(p.add(10));
      return { before, old: before.add(0), after: p.mul(2) };
    });
    const { before, after } = await f();
    expect(await values(before)).toEqual([1, 2]);
    expect(await values(after)).toEqual([22, 24]);
    expect([...(await p.data())]).toEqual([11, 12]);
  });

  it("keeps a value read before an assignment, also where the op changed nothing", async () => {
    const p = new Parameter([1], { data: Float32Array.of(3) });
    const f = compile((scale: number) => {
      const [scaled, column] = [p.mul(scale), p.reshape([1, 1])];
      const same = [p.add(0), p.cast("f32"), p.reshape([1]), p.slice(0, 0), concat([p])];
      p.assign(p.mul(10));
      return [scaled, column.reshape([1]), column.reshape([1, 1, 1]), ...same].map((old) => old.mul(2));
    });
    expect((await Promise.all((await f(1)).map(values))).flat()).toEqual(new Array(8).fill(6));
    expect(await values((await f(2))[0]!)).toEqual([120]);
  });

  it("differentiates a graph as it was recorded, whatever was assigned since", async () => {
    const p = new Parameter([1], { data: Float32Array.of(3) });
    const f = compile(() => {
      const cube = p.mul(1).mul(p).mul(p).sum();
      p.assign(p.add(1));
      return gradients(cube, [p])[0]!;
    });
    expect(await values(await f())).toEqual([27]);
    expect(await values(await f())).toEqual([48]);
  });

  it("assigns and returns what a parameter stands for by then", async () => {
    const [online, target] = [1, 5].map((value) => new Parameter([1], { data: Float32Array.of(value) })) as [
      Parameter,
      Parameter,
    ];
    const f = compile(() => {
      online.assign(online.mul(2));
      target.assign(online);
      online.assign(online.add(1));
      online.assign(online);
      return { online, target };
    });
    const result = await f();
    expect([await values(result.online), await values(result.target)]).toEqual([[3], [2]]);
    expect([...(await online.data()), ...(await target.data())]).toEqual([3, 2]);
  });

  it("swaps two parameters", async () => {
    const a = new Parameter([2], { data: Float32Array.of(1, 2) });
    const b = new Parameter([2], { data: Float32Array.of(3, 4) });
    await compile(() => {
      const [x, y] = [a.mul(1), b.mul(1)];
      a.assign(y);
      b.assign(x);
    })();
    expect([...(await a.data())]).toEqual([3, 4]);
    expect([...(await b.data())]).toEqual([1, 2]);
  });

  it("updates a cache in place, and copies where the old value is still read", async () => {
    const cache = new Parameter([1, 4, 2]);
    const inPlace = compile((row: Tensor, at: Tensor) => {
      const next = updateRows(cache, row, at);
      cache.assign(next);
      return sum(next);
    });
    expect(inPlace.inspect(tensor([[[1, 2]]]), tensor(Int32Array.of(1)))).not.toContain("copy");
    await inPlace(tensor([[[1, 2]]]), tensor(Int32Array.of(1)));
    expect([...(await cache.data())]).toEqual([0, 0, 1, 2, 0, 0, 0, 0]);
    const keepsOld = compile((row: Tensor, at: Tensor) => {
      const old = cache.mul(1);
      const next = updateRows(cache, row, at);
      cache.assign(next);
      return { old, next };
    });
    const { old, next } = await keepsOld(tensor([[[5, 6]]]), tensor(Int32Array.of(0)));
    expect(await values(old)).toEqual([0, 0, 1, 2, 0, 0, 0, 0]);
    expect(await values(next)).toEqual([5, 6, 1, 2, 0, 0, 0, 0]);
    expect([...(await cache.data())]).toEqual([5, 6, 1, 2, 0, 0, 0, 0]);
  });

  it("keeps what was assigned when the assigned value is updated again", async () => {
    const source = new Parameter([1, 2, 1], { data: Float32Array.of(1, 2) });
    const kept = new Parameter([1, 2, 1]);
    const f = compile(() => {
      const doubled = source.mul(2);
      kept.assign(doubled);
      return updateRows(doubled, full([1, 1, 1], 7), full([1], 1, "i32"));
    });
    expect(await values(await f())).toEqual([2, 7]);
    expect([...(await kept.data())]).toEqual([2, 4]);
  });

  it("keeps large outputs on the device and feeds them to the next run", async () => {
    const make = compile((x: Tensor) => x.add(full([300, 300], 1)));
    const use = compile((x: Tensor) => sum(x));
    const big = await make(tensor([1]));
    expect(big.source.kind).toBe("storage");
    expect(await (await use(big)).item()).toBe(180_000);
  });

  it("refuses what it cannot do, by name", async () => {
    const leaked: Tensor[] = [];
    await compile((x: Tensor) => {
      leaked.push(x);
      return x.add(1);
    })(tensor([1]));
    expect(() => leaked[0]!.add(1)).toThrow(InvalidUseError);
    await expect(compile((x: Tensor) => compile((y: Tensor) => y)(x) as never)(tensor([1]))).rejects.toThrow(
      InvalidUseError,
    );
    await expect(compile(() => new Map() as never)()).rejects.toThrow(/plain objects/);
  });

  it("reports an index that is out of range, with op and value", async () => {
    const { gatherRows } = await import("../../src/index.js");
    const look = compile((index: Tensor) => gatherRows(full([4, 2], 1), index));
    await expect(look(tensor(Int32Array.of(1, 9)))).rejects.toMatchObject({
      code: "TREFOIL_INDEX_OUT_OF_RANGE",
      op: "gather_rows",
    });
    expect(await values(await look(tensor(Int32Array.of(0))))).toEqual([1, 1]);
  });

  it("names the first op that gave a value that is not finite", async () => {
    const f = compile((x: Tensor) => relu(x.sum().log()).mul(2));
    const error = await f.diagnose(tensor([-1, 0.5])).catch((reason: unknown) => reason);
    expect(error).toBeInstanceOf(NonFiniteError);
    expect((error as NonFiniteError).op).toBe("elementwise");
    expect(await (await f.diagnose(tensor([1, 1]))).item()).toBeCloseTo(2 * Math.log(2), 6);
  });
});

describe("lowering", () => {
  it("fuses elementwise chains into one kernel, without the values between", () => {
    const f = compile((x: Tensor, y: Tensor) => x.mul(y).add(1).relu().mul(x));
    const text = f.inspect(full([64, 64], 0), full([64, 64], 0));
    expect(text.match(/elementwise/g)).toHaveLength(1);
  });

  it("adds residuals, biases and sums of gradients inside matmul", () => {
    const w = new Parameter([16, 16]);
    const bias = new Parameter([16]);
    const layer = compile((x: Tensor) => matmul(x, w).add(bias).add(x));
    const text = layer.inspect(full([8, 16], 0));
    expect(text).not.toContain("elementwise");
    expect(text.match(/matmul\(/g)).toHaveLength(1);
    const three = [new Parameter([16, 16]), new Parameter([16, 16]), new Parameter([16, 16])];
    const backward = compile((x: Tensor) => {
      const y = three.map((weight) => matmul(x, weight)).reduce((a, b) => multiply(a, b));
      return gradients(sum(y), [x])[0]!;
    });
    // Only the products of the outputs themselves are elementwise; the three parts of dx add up in the matmuls.
    expect(backward.inspect(full([8, 16], 0))).not.toMatch(/elementwise\(%\d+, %\d+\) \{1,2,/);
  });

  it("applies activations inside matmul, where no gradient reads the product", async () => {
    const shape = [24, 16];
    const x = tensor(
      Float32Array.from({ length: 384 }, (_, i) => Math.sin(i)),
      { shape },
    );
    const w = new Parameter([16, 16], { data: Float32Array.from({ length: 256 }, (_, i) => Math.cos(i)) });
    const bias = new Parameter([16], { data: Float32Array.from({ length: 16 }, (_, i) => i / 16 - 0.5) });
    for (const activation of [relu, gelu, silu]) {
      const layer = compile((input: Tensor) => activation(matmul(input, w).add(bias)));
      expect(layer.inspect(x)).not.toContain("elementwise");
      const product = tensor(Float32Array.from(await matmul(x, w).add(bias).data()), { shape });
      const expected = [...(await activation(product).data())];
      (await (await layer(x)).data()).forEach((value, i) => {
        expect(value).toBeCloseTo(expected[i]!, 5);
      });
      const both = compile((input: Tensor) => {
        const y = reshape(activation(matmul(input, w).add(bias)), [2, 12, 16]);
        return { y, dx: gradients(sum(y), [input])[0]! };
      });
      const eager = await gradients(sum(activation(product)), [product])[0]!.data();
      const dx = matmul(tensor(Float32Array.from(eager), { shape }), w, { transposeB: true });
      const wanted = [...(await dx.data())];
      const { y, dx: found } = await both(x);
      (await found.data()).forEach((value, i) => {
        expect(value).toBeCloseTo(wanted[i]!, 5);
      });
      (await y.data()).forEach((value, i) => {
        expect(value).toBeCloseTo(expected[i]!, 5);
      });
    }
  });

  it("computes a common subexpression once", () => {
    const w = new Parameter([16, 16]);
    const f = compile((x: Tensor) => add(matmul(x, w).exp(), matmul(x, w).exp()));
    expect(f.inspect(full([8, 16], 0)).match(/matmul\(/g)).toHaveLength(1);
  });

  it("gives the same numbers fused and unfused", async () => {
    const x = tensor(
      Float32Array.from({ length: 64 }, (_, i) => Math.sin(i)),
      { shape: [8, 8] },
    );
    const w = tensor(
      Float32Array.from({ length: 64 }, (_, i) => Math.cos(i)),
      { shape: [8, 8] },
    );
    const fused = await compile((a: Tensor, b: Tensor) => a.matmul(b).add(a).mul(2).relu())(x, w);
    const product = tensor(Float32Array.from(await x.matmul(w).data()), { shape: [8, 8] });
    const total = tensor(Float32Array.from(await product.add(x).data()), { shape: [8, 8] });
    const expected = await total.mul(2).relu().data();
    const actual = await fused.data();
    actual.forEach((value, i) => {
      expect(value).toBeCloseTo(expected[i]!, 5);
    });
  });
});

describe("autograd", () => {
  it("matches a hand derivation", async () => {
    const x = new Parameter([3], { data: Float32Array.of(1, 2, 3) });
    const f = compile(() => {
      const { value, grads } = valueAndGrad(() => sum(x.mul(x).mul(x)), [x]);
      return { value, grad: grads[0]! };
    });
    const { value, grad } = await f();
    expect(await value.item()).toBe(36);
    expect(await values(grad)).toEqual([3, 12, 27]);
  });

  it("differentiates twice", async () => {
    const second = compile((x: Tensor) => gradients(sum(gradients(sum(x.mul(x).mul(x)), [x])[0]!), [x])[0]!);
    expect(await values(await second(tensor([1, 2])))).toEqual([6, 12]);
  });

  it("gives zeros to a target that does not reach the loss, and refuses a loss that none reaches", async () => {
    const f = compile((x: Tensor, y: Tensor) => gradients(sum(x), [x, y])[1]!);
    expect(await values(await f(tensor([1]), tensor([2, 3])))).toEqual([0, 0]);
    const none = compile((x: Tensor, y: Tensor) => gradients(sum(x), [y])[0]!);
    await expect(none(tensor([1]), tensor([2, 3]))).rejects.toThrow(
      /gradients: the loss depends on none of the targets/,
    );
    // Reading a value computes it, and drops how it was made.
    const x = tensor([3]);
    const loss = x.square().sum();
    const [before] = gradients(loss, [x]);
    expect(await loss.item()).toBe(9);
    expect(await values(before!)).toEqual([6]);
    expect(() => gradients(loss, [x])).toThrow(/depends on none of the targets.*a constant from then on/);
    const [w, v] = [new Parameter([1], { data: Float32Array.of(2) }), new Parameter([1], { data: Float32Array.of(5) })];
    const between = w.square();
    const later = between.mul(v).sum();
    expect(await between.item()).toBe(4);
    expect(await values(gradients(later, [v])[0]!)).toEqual([4]);
    expect(() => gradients(later, [w, v])).toThrow(/a target does not reach the loss.*a constant from then on/);
  });

  it("differentiates by what a loss reads of a parameter that the program has assigned", async () => {
    const descend = async (stepsPerRun: number) => {
      const [p, q] = [Float32Array.of(1, -2), Float32Array.of(0.5, 1)].map((data) => new Parameter([2], { data }));
      const optimizer = new AdamW([p!], { learningRate: 0.1 });
      const run = compile(() => {
        for (let i = 0; i < stepsPerRun; i++) {
          const loss = p!.square().mul(q!).sum().add(q!.square().sum());
          const [dp, dq] = gradients(loss, [p!, q!]);
          optimizer.apply([dp!]);
          q!.assign(q!.sub(dq!.mul(0.1)));
        }
      });
      for (let i = 0; i < 6; i += stepsPerRun) await run();
      return [...(await values(p!)), ...(await values(q!))];
    };
    const expected = await descend(1);
    for (const steps of [2, 3, 6]) expect(await descend(steps)).toEqual(expected);
  });

  it("differentiates a loss that was built before its parameter was assigned", async () => {
    const p = new Parameter([1], { data: Float32Array.of(3) });
    const f = compile(() => {
      const loss = p.square().sum();
      p.assign(full([1], 10));
      return { before: gradients(loss, [p])[0]!, after: gradients(p.square().sum(), [p])[0]! };
    });
    const { before, after } = await f();
    expect([await before.item(), await after.item()]).toEqual([6, 20]);
  });

  it("refuses ops without gradient", async () => {
    const swapped = compile(
      (x: Tensor) => gradients(sum(updateRows(x, full([1, 1, 2], 1), full([1], 0, "i32"))), [x])[0]!,
    );
    await expect(swapped(full([1, 2, 2], 0))).rejects.toThrow(/update_rows_: this op has no gradient/);
  });
});
