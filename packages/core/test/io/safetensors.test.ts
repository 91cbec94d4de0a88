import { readdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import {
  loadSafetensors,
  SafetensorsFile,
  SafetensorsWriter,
  type StoredTensor,
  saveSafetensors,
} from "../../src/io/index.js";
import { Linear } from "../../src/nn/index.js";
import { fixtures, scratch } from "./folders.js";

const pythonFile = join(fixtures, "dtypes.safetensors");

/** A file from a header text, with `data` zero bytes after it. */
async function craft(header: string, data: number, length?: bigint): Promise<string> {
  const path = join(await scratch(), "crafted.safetensors");
  const prefix = Buffer.alloc(8);
  prefix.writeBigUInt64LE(length ?? BigInt(Buffer.byteLength(header)));
  await writeFile(path, Buffer.concat([prefix, Buffer.from(header), Buffer.alloc(data)]));
  return path;
}

describe("reading what Python wrote", () => {
  it("reads every dtype, shape and metadata", async () => {
    await using file = await SafetensorsFile.open(pythonFile);
    expect(file.metadata).toEqual({ format: "pt" });
    expect(file.info("empty")).toMatchObject({ dtype: "F32", shape: [0, 7], bytes: 0 });
    expect(file.info("scalar").shape).toEqual([]);
    expect(await file.readF32("scalar")).toEqual(Float32Array.of(2.5));
    expect(new BigInt64Array((await file.read("long")).buffer as ArrayBuffer)).toEqual(
      BigInt64Array.of(-2n, -1n, 0n, 1n, 2n),
    );
    expect([...(await file.read("bool"))]).toEqual([1, 0, 1]);
    expect(await file.readF32("\u{1f600}")).toEqual(Float32Array.of(1));

    const float = await file.readF32("float");
    expect(await file.readF32("double")).toEqual(float);
    for (const [name, unit] of [
      ["half", 2 ** -11],
      ["brain", 2 ** -8],
    ] as const) {
      const narrow = await file.readF32(name);
      for (const [i, value] of float.entries())
        expect(Math.abs((narrow[i] as number) - value)).toBeLessThanOrEqual(Math.abs(value) * unit);
    }
  });

  it("reads parts of a tensor", async () => {
    await using file = await SafetensorsFile.open(pythonFile);
    const whole = await file.readF32("float");
    const part = new Float32Array(4);
    await file.readRange("float", 16, new Uint8Array(part.buffer));
    expect(part).toEqual(whole.slice(4, 8));
    await expect(file.readRange("float", 40, new Uint8Array(16))).rejects.toMatchObject({
      code: "SAFETENSORS_OUT_OF_RANGE",
    });
    await expect(file.readRange("float", -1, new Uint8Array(1))).rejects.toMatchObject({
      code: "SAFETENSORS_OUT_OF_RANGE",
    });
    await expect(file.read("float", new Uint8Array(4))).rejects.toMatchObject({ code: "SAFETENSORS_OUT_OF_RANGE" });
    await expect(file.readF32("long")).rejects.toMatchObject({ code: "SAFETENSORS_UNSUPPORTED_DTYPE", tensor: "long" });
    await expect(file.read("absent")).rejects.toMatchObject({ code: "SAFETENSORS_UNKNOWN_TENSOR" });
  });

  it("writes the same bytes back, whatever the order of declaration", async () => {
    await using file = await SafetensorsFile.open(pythonFile);
    const tensors: Record<string, StoredTensor> = {};
    for (const [name, { dtype, shape }] of [...file.tensors].reverse())
      tensors[name] = { dtype, shape, data: await file.read(name) };
    const copy = join(await scratch(), "copy.safetensors");
    await saveSafetensors(copy, tensors, file.metadata);
    expect((await readFile(copy)).equals(await readFile(pythonFile))).toBe(true);
  });
});

describe("malformed files", () => {
  const entry = (begin: number | string, end: number | string, shape = "[1]", dtype = "F32") =>
    `{"dtype":"${dtype}","shape":${shape},"data_offsets":[${begin},${end}]}`;
  const deep = `{"a":${"[".repeat(100_000)}${"]".repeat(100_000)}}`;
  const cases: [string, string, number, string, bigint?][] = [
    ["a header longer than the file", "{}", 0, "SAFETENSORS_TRUNCATED", 1000n],
    ["a header over 100 MB", "{}", 0, "SAFETENSORS_HEADER_TOO_LARGE", 100_000_001n],
    ["a header length of 2^64 - 1", "{}", 0, "SAFETENSORS_HEADER_TOO_LARGE", 2n ** 64n - 1n],
    ["an empty header", "", 0, "SAFETENSORS_INVALID_HEADER"],
    ["a header that is a list", "[]", 0, "SAFETENSORS_INVALID_HEADER"],
    ["broken JSON", '{"a":', 0, "SAFETENSORS_INVALID_HEADER"],
    ["an unfinished string", '{"a', 0, "SAFETENSORS_INVALID_HEADER"],
    ["deep JSON", deep, 0, "SAFETENSORS_INVALID_HEADER"],
    ["cut data", `{"a":${entry(0, 4)}}`, 3, "SAFETENSORS_TRUNCATED"],
    ["overlapping ranges", `{"a":${entry(0, 4)},"b":${entry(2, 6)}}`, 6, "SAFETENSORS_OVERLAP"],
    ["the same range twice", `{"a":${entry(0, 4)},"b":${entry(0, 4)}}`, 4, "SAFETENSORS_OVERLAP"],
    ["a gap", `{"a":${entry(0, 4)},"b":${entry(8, 12)}}`, 12, "SAFETENSORS_GAP"],
    ["a gap at the start", `{"a":${entry(4, 8)}}`, 8, "SAFETENSORS_GAP"],
    ["an uncovered tail", `{"a":${entry(0, 4)}}`, 5, "SAFETENSORS_UNCOVERED_TAIL"],
    ["a negative offset", `{"a":${entry(-4, 0)}}`, 4, "SAFETENSORS_INVALID_HEADER"],
    ["a fractional offset", `{"a":${entry("0.5", "4.5")}}`, 8, "SAFETENSORS_INVALID_HEADER"],
    ["a whole number written as a float", `{"a":${entry("0", "4.0")}}`, 4, "SAFETENSORS_INVALID_HEADER"],
    ["an exponent", `{"a":${entry("0", "4e0")}}`, 4, "SAFETENSORS_INVALID_HEADER"],
    ["an offset beyond 2^53", `{"a":${entry(0, "9007199254740993")}}`, 4, "SAFETENSORS_INVALID_HEADER"],
    ["offsets the wrong way round", `{"a":${entry(4, 0)}}`, 4, "SAFETENSORS_INVALID_HEADER"],
    ["three offsets", '{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4,4]}}', 4, "SAFETENSORS_INVALID_HEADER"],
    ["no offsets", '{"a":{"dtype":"F32","shape":[1]}}', 4, "SAFETENSORS_INVALID_HEADER"],
    [
      "an unknown field",
      '{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4],"x":1}}',
      4,
      "SAFETENSORS_INVALID_HEADER",
    ],
    ["a negative extent", `{"a":${entry(0, 4, "[-1]")}}`, 4, "SAFETENSORS_INVALID_HEADER"],
    ["a shape that does not fit its range", `{"a":${entry(0, 4, "[2]")}}`, 4, "SAFETENSORS_SIZE_MISMATCH"],
    [
      "a shape whose size overflows",
      `{"a":${entry(0, 4, "[4294967296,4294967296,4294967296]")}}`,
      4,
      "SAFETENSORS_SIZE_MISMATCH",
    ],
    ["an unknown dtype", `{"a":${entry(0, 4, "[1]", "F33")}}`, 4, "SAFETENSORS_UNKNOWN_DTYPE"],
    ["an inherited property as a dtype", `{"a":${entry(0, 4, "[1]", "toString")}}`, 4, "SAFETENSORS_UNKNOWN_DTYPE"],
    ["float8", `{"a":${entry(0, 1, "[1]", "F8_E4M3")}}`, 1, "SAFETENSORS_UNSUPPORTED_DTYPE"],
    ["a name twice", `{"a":${entry(0, 4)},"a":${entry(4, 8)}}`, 8, "SAFETENSORS_DUPLICATE_NAME"],
    ["a name twice, once escaped", `{"a":${entry(0, 4)},"\\u0061":${entry(4, 8)}}`, 8, "SAFETENSORS_DUPLICATE_NAME"],
    [
      "a field twice",
      '{"a":{"dtype":"F32","dtype":"F64","shape":[1],"data_offsets":[0,4]}}',
      4,
      "SAFETENSORS_DUPLICATE_NAME",
    ],
    ["a number as metadata", '{"__metadata__":{"a":1}}', 0, "SAFETENSORS_INVALID_HEADER"],
    ["metadata that is no object", '{"__metadata__":[]}', 0, "SAFETENSORS_INVALID_HEADER"],
    ["null for a tensor", '{"a":null}', 0, "SAFETENSORS_INVALID_HEADER"],
  ];
  it.each(cases)("refuses %s", async (_what, header, data, code, length) => {
    await expect(SafetensorsFile.open(await craft(header, data, length))).rejects.toMatchObject({
      name: "SafetensorsError",
      code,
    });
  });

  it("refuses a file of under 8 bytes and a header that is not UTF-8", async () => {
    const path = join(await scratch(), "short");
    await writeFile(path, "abc");
    await expect(SafetensorsFile.open(path)).rejects.toMatchObject({ code: "SAFETENSORS_TRUNCATED" });
    await writeFile(
      path,
      Buffer.concat([Buffer.from([4, 0, 0, 0, 0, 0, 0, 0]), Buffer.from([0x7b, 0xff, 0xfe, 0x7d])]),
    );
    await expect(SafetensorsFile.open(path)).rejects.toMatchObject({ code: "SAFETENSORS_INVALID_HEADER" });
  });

  it("refuses every truncation of a good file", async () => {
    const whole = await readFile(pythonFile);
    const path = join(await scratch(), "cut.safetensors");
    for (let length = 0; length < whole.length; length += 41) {
      await writeFile(path, whole.subarray(0, length));
      await expect(SafetensorsFile.open(path)).rejects.toMatchObject({ code: "SAFETENSORS_TRUNCATED" });
    }
  });

  it("accepts an unpadded header, and one without tensors", async () => {
    await using file = await SafetensorsFile.open(await craft(`{"a":${entry(0, 4)}}`, 4));
    expect(file.info("a").byteOffset % 8).not.toBe(0);
    expect(await file.readF32("a")).toEqual(Float32Array.of(0));
    await using empty = await SafetensorsFile.open(await craft("{}", 0));
    expect(empty.tensors.size).toBe(0);
  });
});

describe("writing", () => {
  const declarations = [
    { name: "a", dtype: "F32", shape: [2] },
    { name: "b", dtype: "U8", shape: [3] },
  ] as const;

  it("shows the file only when it is whole", async () => {
    const folder = await scratch();
    const writer = await SafetensorsWriter.create(join(folder, "x.safetensors"), declarations);
    await writer.write("b", Uint8Array.of(1, 2, 3));
    expect(await readdir(folder)).toEqual([expect.stringMatching(/^\.tmp-x\.safetensors/)]);
    await writer.write("a", new Uint8Array(4));
    await writer.write("a", Uint8Array.of(0, 0, 0x80, 0x3f));
    await writer.finish();
    expect(await readdir(folder)).toEqual(["x.safetensors"]);
    await using file = await SafetensorsFile.open(join(folder, "x.safetensors"));
    expect(await file.readF32("a")).toEqual(Float32Array.of(0, 1));
  });

  it("refuses missing, excess and undeclared bytes and leaves nothing", async () => {
    const folder = await scratch();
    const path = join(folder, "x.safetensors");
    const writer = await SafetensorsWriter.create(path, declarations);
    await expect(writer.write("c", new Uint8Array(1))).rejects.toMatchObject({ code: "SAFETENSORS_UNKNOWN_TENSOR" });
    await expect(writer.write("b", new Uint8Array(4))).rejects.toMatchObject({ code: "SAFETENSORS_OUT_OF_RANGE" });
    await expect(writer.finish()).rejects.toMatchObject({ code: "SAFETENSORS_INCOMPLETE", tensor: "a" });
    const wrong = { a: { dtype: "F32", shape: [2], data: new Float32Array(3) } } as const;
    await expect(saveSafetensors(path, wrong)).rejects.toMatchObject({ code: "SAFETENSORS_SIZE_MISMATCH" });
    await expect(SafetensorsWriter.create(path, [declarations[0], declarations[0]])).rejects.toMatchObject({
      code: "SAFETENSORS_DUPLICATE_NAME",
    });
    await expect(SafetensorsWriter.create(path, [{ name: "a", dtype: "F32", shape: [-1] }])).rejects.toMatchObject({
      code: "SAFETENSORS_SIZE_MISMATCH",
    });
    expect(await readdir(folder)).toEqual([]);
  });
});

describe("loadSafetensors", () => {
  it("reads every dtype that Python wrote as the array that holds it", async () => {
    const tensors = await loadSafetensors(pythonFile);
    await using file = await SafetensorsFile.open(pythonFile);
    expect(Object.keys(tensors)).toEqual([...file.tensors.keys()]);
    expect(tensors.long).toEqual({ dtype: "I64", shape: [5], data: BigInt64Array.of(-2n, -1n, 0n, 1n, 2n) });
    expect(tensors.scalar).toEqual({ dtype: "F32", shape: [], data: Float32Array.of(2.5) });
  });

  it("brings a module's parameters back, and loadState refuses other types", async () => {
    const path = join(await scratch(), "module.safetensors");
    const [from, to] = [new Linear(3, 2), new Linear(3, 2)];
    await saveSafetensors(path, await from.state());
    const tensors = await loadSafetensors(path);
    to.loadState(tensors);
    expect(await to.state()).toEqual(await from.state());
    const half = { ...tensors, bias: { ...tensors.bias!, data: new Uint16Array(2) } };
    expect(() => to.loadState(half)).toThrow(/"bias": got 2 values of bf16 for f32/);
    const wide = { ...tensors, bias: { ...tensors.bias!, data: new Float64Array(2) } };
    expect(() => to.loadState(wide)).toThrow(/this is a Float64Array/);
  });
});
