import { closeSync, openSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { dtypeCodes, runFlags } from "../index.js";
import {
  accumulating,
  busy,
  doubling,
  elementwise,
  failure,
  input,
  native,
  openCpu,
  state,
  temporary,
} from "./programs.js";

const invalid = "TREFOIL_INVALID_ARGUMENT";

describe("device", () => {
  it("tells what it is and which ops it has", () => {
    const device = openCpu({ threads: 2 });
    expect(native.deviceInfo(device)).toMatchObject({ backend: "cpu", threads: 2 });
    expect(["scalar", "avx2", "avx512", "neon"]).toContain(native.deviceInfo(device).isa);
    expect(native.deviceOps(device)).toContain("elementwise");
  });

  it("says why it cannot be opened", async () => {
    const open = (options: object) => () => native.openDevice({ backend: "cpu", index: 0, ...options });
    expect((await failure(open({ index: 7 }), invalid)).message).toContain("device index 7");
    expect((await failure(open({ isa: "abacus" }), invalid)).message).toContain("abacus");
    expect((await failure(open({ threads: 0 }), invalid)).message).toContain("threads is 0");
    const library = "/nowhere/libtrefoil_cuda.so";
    const error = await failure(open({ backend: "cuda", library }), "TREFOIL_DEVICE_UNAVAILABLE");
    expect(error.message).toContain(library);
    expect(error.message).not.toContain("\n");
  });
});

describe("run", () => {
  it("takes and fills typed arrays and buffers", async () => {
    const device = openCpu();
    const program = native.createProgram(device, doubling(3));
    const [x, y] = [native.createBuffer(device, 12), native.createBuffer(device, 12)];
    const fetched = new Float32Array(3);
    await native.readBuffer(x, fetched);
    expect([...fetched]).toEqual([0, 0, 0]);
    native.writeBuffer(x, new Float32Array([1, 2, 3]));
    await native.run(program, [x], [y], 0);
    await native.readBuffer(y, fetched);
    expect([...fetched]).toEqual([2, 4, 6]);
    // A view into the middle of a larger array, and a DataView.
    const wide = new Float32Array([9, 9, 10, 20, 30, 9]);
    await native.run(program, [wide.subarray(2, 5)], [new DataView(wide.buffer, 8, 12)], 0);
    expect([...wide]).toEqual([9, 9, 20, 40, 60, 9]);
    for (const buffer of [x, y]) native.releaseBuffer(buffer);
    native.releaseProgram(program);
  });

  it("copies host inputs when called, and keeps the order of runs, writes and reads", async () => {
    const device = openCpu();
    const total = native.createBuffer(device, 4);
    const program = native.createProgram(device, accumulating(total));
    const x = new Float32Array(1);
    const seen = [0, 1, 2].map(() => new Float32Array(1));
    const reads: Promise<void>[] = [];
    for (let i = 1; i <= 100; i++) {
      x[0] = i;
      void native.run(program, [x], [], 0);
      if (i === 10) reads.push(native.readBuffer(total, seen[0]!));
      if (i === 50) native.writeBuffer(total, new Float32Array([1000]));
      if (i === 60) reads.push(native.readBuffer(total, seen[1]!));
    }
    native.releaseBuffer(total); // the program keeps it
    await native.synchronize(device);
    reads.push(native.run(program, [x], [], 0));
    await Promise.all(reads);
    expect([seen[0]![0], seen[1]![0]]).toEqual([55, 1000 + (51 + 60) * 5]);
    native.releaseProgram(program);
  });

  it("reports the op and instruction that failed, and the next run works", async () => {
    const device = openCpu();
    const program = native.createProgram(device, {
      values: [
        input(0, 4, 2),
        { dtype: dtypeCodes.i32, shape: [1], kind: "input", index: 1 },
        temporary(4, 2),
        temporary(1, 2),
      ],
      instructions: [
        elementwise("multiplyImmediate", [0], 2, 2),
        { op: "gather_rows", inputs: [2, 1], outputs: [3], attributes: [] },
      ],
      outputs: [3],
    });
    const table = new Float32Array([0, 1, 2, 3, 4, 5, 6, 7]);
    const row = new Float32Array(2);
    const error = await failure(
      () => native.run(program, [table, new Int32Array([4])], [row], 0),
      "TREFOIL_INDEX_OUT_OF_RANGE",
    );
    expect(error).toMatchObject({ op: "gather_rows", instruction: 1 });
    await native.run(program, [table, new Int32Array([3])], [row], 0);
    expect([...row]).toEqual([12, 14]);
    native.releaseProgram(program);
  });

  it("fails what comes next, once, where it is told to", async () => {
    const device = openCpu();
    const looksUp = native.createProgram(device, {
      values: [input(0, 4, 2), { dtype: dtypeCodes.i32, shape: [1], kind: "input", index: 1 }, temporary(1, 2)],
      instructions: [{ op: "gather_rows", inputs: [0, 1], outputs: [2], attributes: [] }],
      outputs: [2],
    });
    const total = native.createBuffer(device, 4);
    const adds = native.createProgram(device, accumulating(total));
    const outOfRange = "TREFOIL_INDEX_OUT_OF_RANGE";
    const wrong = (flags: number) =>
      failure(
        () => native.run(looksUp, [new Float32Array(8), new Int32Array([4])], [new Float32Array(2)], flags),
        outOfRange,
      );
    const add = () => native.run(adds, [new Float32Array([1])], [], 0);
    const [lookedUp, added] = [wrong(runFlags.failNext), failure(add, outOfRange)];
    expect(await added).toMatchObject({ op: "gather_rows", instruction: 0 });
    await lookedUp;
    await add();
    await Promise.all([wrong(0), add()]);
    const sum = new Float32Array(1);
    await native.readBuffer(total, sum);
    expect(sum[0]).toBe(2);
    native.releaseBuffer(total);
    for (const program of [looksUp, adds]) native.releaseProgram(program);
  });

  it("finds the first value that is not finite", async () => {
    const device = openCpu();
    const program = native.createProgram(device, {
      values: [input(0, 2), temporary(2), temporary(2)],
      instructions: [elementwise("multiplyImmediate", [0], 1, 1), elementwise("log", [1], 2)],
      outputs: [2],
    });
    const y = new Float32Array(2);
    await native.run(program, [new Float32Array([1, -1])], [y], 0);
    expect(y[1]).toBeNaN();
    const error = await failure(
      () => native.run(program, [new Float32Array([1, -1])], [y], runFlags.checkFinite),
      "TREFOIL_NON_FINITE",
    );
    expect(error).toMatchObject({ op: "elementwise", instruction: 1 });
    expect(error.message).toContain("output 0 is not finite at element 1 of 2");
    native.releaseProgram(program);
  });

  it("profiles on request", async () => {
    const device = openCpu();
    const program = native.createProgram(device, doubling(1 << 16));
    const data = new Float32Array(1 << 16);
    await native.run(program, [data], [data], 0);
    expect([...native.programProfile(program)]).toEqual([0]);
    await native.run(program, [data], [data], runFlags.profile);
    expect(native.programProfile(program)[0]).toBeGreaterThan(0);
    native.releaseProgram(program);
  });

  it("rejects when an output was detached meanwhile", async () => {
    const device = openCpu();
    const slow = await busy(device, 50);
    const program = native.createProgram(device, doubling(1000));
    const target = new Float32Array(1000);
    void native.run(slow, [], [], 0);
    const done = native.run(program, [new Float32Array(1000)], [target], 0);
    structuredClone(target, { transfer: [target.buffer] });
    const error = await failure(() => done, invalid);
    expect(error.message).toContain("detached");
    for (const handle of [slow, program]) native.releaseProgram(handle);
  });
});

describe("errors", () => {
  it("names an op that the backend lacks", async () => {
    const device = openCpu();
    const spec = doubling(2);
    spec.instructions[0]!.op = "levitate";
    const error = await failure(() => native.createProgram(device, spec), "TREFOIL_UNSUPPORTED_OP");
    expect(error).toMatchObject({ op: "levitate", instruction: 0 });
    expect(error.message).toContain('backend "cpu" has no op "levitate"');
  });

  it("refuses stale handles and handles of another kind", async () => {
    const device = openCpu();
    const buffer = native.createBuffer(device, 4);
    const program = native.createProgram(device, doubling(1));
    await failure(() => native.readBuffer(program, new Float32Array(1)), invalid);
    await failure(() => native.run(buffer, [], [], 0), invalid);
    await failure(() => native.memory(buffer), invalid);
    native.releaseBuffer(buffer);
    native.releaseProgram(program);
    const error = await failure(() => native.releaseBuffer(buffer), invalid);
    expect(error.message).toContain(`buffer ${buffer} does not exist, or has been released`);
    await failure(() => native.run(program, [], [], 0), invalid);
    await failure(
      () => native.createProgram(device, { values: [state(buffer, 1)], instructions: [], outputs: [] }),
      invalid,
    );
  });

  it("refuses sizes that do not fit", async () => {
    const device = openCpu();
    const program = native.createProgram(device, doubling(2));
    const [two, three] = [new Float32Array(2), new Float32Array(3)];
    const buffer = native.createBuffer(device, 8);
    await failure(() => native.run(program, [three], [two], 0), invalid);
    await failure(() => native.run(program, [two], [three], 0), invalid);
    await failure(() => native.run(program, [two, two], [two], 0), invalid);
    await failure(() => native.run(program, [], [two], 0), invalid);
    await failure(() => native.run(program, [two], [two], 8), invalid);
    await failure(() => native.writeBuffer(buffer, three), invalid);
    await failure(() => native.readBuffer(buffer, three), invalid);
    await failure(() => native.createBuffer(device, -1), invalid);
    await failure(() => native.createBuffer(device, 1.5), invalid);
    await failure(() => native.createBuffer(device, 2 ** 50), "TREFOIL_OUT_OF_MEMORY");
    native.releaseBuffer(buffer);
    native.releaseProgram(program);
  });

  it("throws for any wrong argument, and TypeErrors for wrong types", async () => {
    const device = openCpu();
    const program = native.createProgram(device, doubling(2));
    const throwing = {
      get values(): never {
        throw new RangeError("from a getter");
      },
    };
    const strange = [undefined, null, "x", Number.NaN, -1, 2 ** 60, {}, [], [null], Symbol("s"), 5n, () => 1, throwing];
    for (const [name, call] of Object.entries(native) as [string, (...args: unknown[]) => unknown][]) {
      await expect(async () => call(), name).rejects.toThrow(TypeError);
      for (const value of strange) {
        await expect(async () => call(value, value, value, value), `${name} ${String(value)}`).rejects.toThrow();
        if (name !== "mapFile") await expect(async () => call(value), name).rejects.toThrow();
      }
    }
    const make = native.createProgram as (device: number, spec: unknown) => number;
    const spec = (change: object) => ({ ...doubling(2), ...change });
    expect(() => make(device, throwing)).toThrow(RangeError);
    expect(() => make(device, spec({ values: 3 }))).toThrow("spec.values must be an array");
    expect(() => make(device, spec({ values: [{}] }))).toThrow("spec.values[0].dtype must be a number");
    expect(() => make(device, spec({ outputs: ["1"] }))).toThrow("spec.outputs must be a number");
    const run = native.run as (...args: unknown[]) => Promise<void>;
    expect(() => run(program, ["x"], [], 0)).toThrow("inputs[0] must be a buffer or a typed array");
    expect(() => run(program, [new Float32Array(2)], [{}], 0)).toThrow("outputs[0] must be a buffer or a typed array");
    native.releaseProgram(program);
  });

  it("refuses instructions that do not fit their ops", async () => {
    const device = openCpu();
    const softmax = (...result: number[]) => ({
      values: [input(0, 4, 8), temporary(...result)],
      instructions: [{ op: "softmax", inputs: [0], outputs: [1], attributes: [] }],
      outputs: [1],
    });
    native.releaseProgram(native.createProgram(device, softmax(4, 8)));
    const error = await failure(() => native.createProgram(device, softmax(4, 7)), invalid);
    expect(error).toMatchObject({ op: "softmax", instruction: 0 });
    expect(error.message).toContain("instruction 0 (softmax): y is f32 [4, 7]");
    // Rows would be written over the indices that were checked.
    const gather = {
      values: [input(0, 4, 1), { ...temporary(4), dtype: dtypeCodes.i32 }, { ...temporary(4, 1), alias: 1 }],
      instructions: [
        { op: "iota", inputs: [], outputs: [1], attributes: [] },
        { op: "gather_rows", inputs: [0, 1], outputs: [2], attributes: [] },
      ],
      outputs: [2],
    };
    expect((await failure(() => native.createProgram(device, gather), invalid)).message).toContain("value 1 shares");
  });

  it("refuses an array of holes without making room for its elements", () => {
    const device = openCpu();
    const program = native.createProgram(device, doubling(2));
    const holes = new Array(2 ** 32 - 1) as never[];
    const before = process.resourceUsage().maxRSS;
    for (const change of [{ values: holes }, { instructions: holes }, { outputs: holes }])
      expect(() => native.createProgram(device, { ...doubling(2), ...change })).toThrow();
    expect(() => native.run(program, holes, [], 0)).toThrow("inputs[0] must be a buffer or a typed array");
    expect(() => native.run(program, [], holes, 0)).toThrow("outputs[0] must be a buffer or a typed array");
    expect(() => native.writeStored(holes, [], [])).toThrow("pieces[0] must be a typed array");
    expect(process.resourceUsage().maxRSS - before).toBeLessThan(1 << 18); // KiB: 256 MiB
    native.releaseProgram(program);
  });

  it("takes the bytes of weights after the last accessor has run", async () => {
    // An element of an array may be an accessor, which here detaches the bytes of the one before.
    const first = new Float32Array([1, 2]);
    const sources = [first];
    Object.defineProperty(sources, 1, {
      enumerable: true,
      get: () => {
        structuredClone(first, { transfer: [first.buffer] });
        return new Float32Array([3, 4]);
      },
    });
    await failure(() => native.weightedMean(sources, ["F32", "F32"], [0.5, 0.5]), invalid);
  });

  it("asks whether a file is long enough before it makes room for what is to be read", async () => {
    const descriptor = openSync(import.meta.filename, "r");
    const error = await failure(() => native.storedChecksums([2 ** 46], [descriptor], [0]), invalid);
    closeSync(descriptor);
    expect(error).toMatchObject({ syscall: "read" });
    expect(error.message).toContain("shorter");
  });
});

describe("memory", () => {
  it("is flat over runs and gone after release", async () => {
    const device = openCpu({ threads: 1 });
    const start = native.memory(device);
    const n = 1 << 16;
    const buffer = native.createBuffer(device, 4 * n);
    expect(native.memory(device)).toMatchObject({ live: start.live + 4 * n, buffers: start.buffers + 1 });
    const program = native.createProgram(device, doubling(n));
    const data = new Float32Array(n);
    await native.run(program, [data], [data], 0);
    await native.run(program, [data], [buffer], 0);
    const { live } = native.memory(device);
    native.resetPeak(device);
    for (let i = 0; i < 1000; i++) await native.run(program, [data], i % 2 ? [buffer] : [data], 0);
    expect(native.memory(device).live).toBe(live);
    expect(native.memory(device).peak).toBe(live);
    native.releaseProgram(program);
    native.releaseBuffer(buffer);
    await native.synchronize(device);
    expect(native.memory(device)).toMatchObject({ live: start.live, buffers: start.buffers });
  });
});
