import { closeSync, existsSync, mkdtempSync, openSync, readSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import {
  decodeFloats,
  encodeFloats,
  meanOfStored,
  type StoredWeights,
  storedChecksums,
  writeStored,
} from "../../src/index.js";

type Dtype = StoredWeights["dtype"];
const dtypes = ["F32", "F16", "BF16"] as const;
const bytesPer = { F32: 4, F16: 2, BF16: 2 } as const;

/** Values spread over some exponents, repeatable. */
const sample = (length: number, seed: number) =>
  Float32Array.from({ length }, (_, k) => Math.sin(seed + 12.9898 * k) * 2 ** ((k % 7) - 3));
const store = (dtype: Dtype, values: Float32Array): StoredWeights => ({ dtype, bytes: encodeFloats(dtype, values) });
const room = (dtype: Dtype, length: number): StoredWeights => ({
  dtype,
  bytes: new Uint8Array(length * bytesPer[dtype]),
});

describe("the mean of stored weights", () => {
  it.each(dtypes)("is the definition in double precision, written as %s", async (dtype) => {
    // Not a multiple of any block.
    const length = 3001;
    const sources = dtypes.map((each, i) => store(each, sample(length, i)));
    const weights = [0.5, 0.3, 0.2];
    const values = sources.map(({ dtype: each, bytes }) => decodeFloats(each, bytes));
    const mean = Float64Array.from({ length }, (_, k) => {
      const [a, b, c] = values.map((source) => source[k]!) as [number, number, number];
      return a + 0.3 * (b - a) + 0.2 * (c - a);
    });
    const target = room(dtype, length);
    const found = await meanOfStored(sources, weights, target);
    expect(target.bytes).toEqual(encodeFloats(dtype, Float32Array.from(mean)));
    expect(found.overflow).toBe(false);
    // Sums of doubles in another order.
    const sum = (term: (k: number) => number) => mean.reduce((total, _, k) => total + term(k) ** 2, 0);
    expect(found.squaredNorm / sum((k) => mean[k]!)).toBeCloseTo(1, 12);
    found.squaredDistances.forEach((squared, i) => {
      expect(squared / sum((k) => values[i]![k]! - mean[k]!)).toBeCloseTo(1, 12);
    });
    expect((await meanOfStored(sources, weights)).squaredDistances).toEqual(found.squaredDistances);
  });

  it("is that of any number of sources, wherever their sums come to stand in memory", async () => {
    const length = 1200;
    for (let count = 1; count <= 12; count++) {
      const values = Array.from({ length: count }, (_, i) => sample(length, i));
      const weights = values.map((_, i) => (2 * (i + 1)) / (count * (count + 1)));
      const sources = values.map((each) => store("F32", each));
      const mean = Float32Array.from({ length }, (_, k) =>
        values.reduce((sum, each, i) => sum + (i > 0 ? weights[i]! * (each[k]! - values[0]![k]!) : 0), values[0]![k]!),
      );
      const targets = Array.from({ length: 4 }, () => room("F32", length));
      await Promise.all(targets.map((target) => meanOfStored(sources, weights, target)));
      for (const { bytes } of targets) expect(bytes).toEqual(encodeFloats("F32", mean));
    }
  });

  it("converts every half and back, bit for bit", async () => {
    const patterns = Uint16Array.from({ length: 65536 }, (_, k) => k);
    const bytes = new Uint8Array(patterns.buffer);
    for (const dtype of ["F16", "BF16"] as const) {
      const wide = room("F32", 65536);
      await meanOfStored([{ dtype, bytes }], [1], wide);
      const values = decodeFloats(dtype, bytes);
      const found = decodeFloats("F32", wide.bytes);
      // NaN keeps being one; its payload passes through a double.
      expect(found.findIndex((value, k) => !Object.is(value, values[k]))).toBe(-1);
      for (const narrow of ["F16", "BF16"] as const) {
        const target = room(narrow, 65536);
        await meanOfStored([wide], [1], target);
        expect(Buffer.compare(target.bytes, encodeFloats(narrow, found)), `${dtype} to ${narrow}`).toBe(0);
      }
    }
  });

  it("gives equal sources themselves, from unaligned bytes too", async () => {
    const { bytes } = store("F32", sample(500, 3));
    const shifted = new Uint8Array(bytes.length + 1).subarray(1);
    shifted.set(bytes);
    const [source, target] = [{ dtype: "F32" as const, bytes: shifted }, room("F32", 500)];
    const { squaredDistances } = await meanOfStored([source, source, source], [0.2, 0.3, 0.5], target);
    expect(target.bytes).toEqual(bytes);
    expect(squaredDistances).toEqual([0, 0, 0]);
  });

  it("tells of values that are not finite, and of those that do not fit", async () => {
    const values = sample(2000, 1);
    for (const bad of [Number.NaN, Number.POSITIVE_INFINITY]) {
      const damaged = values.slice();
      damaged[1999] = bad;
      const { squaredNorm, squaredDistances } = await meanOfStored(
        [store("F32", values), store("F32", damaged)],
        [1, 0],
      );
      expect([squaredNorm, ...squaredDistances].every(Number.isFinite)).toBe(false);
    }
    values[7] = 65520;
    const overflow = async (dtype: Dtype) =>
      (await meanOfStored([store("F32", values)], [1], room(dtype, 2000))).overflow;
    expect([await overflow("F16"), await overflow("BF16"), await overflow("F32")]).toEqual([true, false, false]);
    values[7] = 65519;
    expect(await overflow("F16")).toBe(false);
  });

  it("refuses sources of different lengths and a target of another size", async () => {
    const source = store("F32", sample(8, 0));
    const wrong = [
      () => meanOfStored([source, store("F32", sample(9, 0))], [0.5, 0.5]),
      () => meanOfStored([source], [1, 2]),
      () => meanOfStored([], []),
      () => meanOfStored([source], [1], room("BF16", 9)),
      () => meanOfStored([{ dtype: "BF16", bytes: new Uint8Array(3) }], [1]),
      () => meanOfStored([{ dtype: "F64" as "F32", bytes: new Uint8Array(8) }], [1]),
    ];
    for (const call of wrong) await expect(call()).rejects.toMatchObject({ code: "TREFOIL_INVALID_ARGUMENT" });
  });
});

describe("stored weights in files", () => {
  const folder = mkdtempSync(join(tmpdir(), "stored-"));
  afterAll(() => rmSync(folder, { recursive: true }));
  let files = 0;
  const opened = (): number => openSync(join(folder, String(files++)), "w+");

  /** Writes and reads back. */
  async function sumOf(bytes: Uint8Array): Promise<number> {
    const descriptor = opened();
    const [sum] = await writeStored([{ bytes, to: { descriptor, position: 5 } }]);
    const from = { descriptor, position: 5 };
    expect(await storedChecksums([{ bytes: bytes.length, from }])).toEqual([sum]);
    const back = new Uint8Array(bytes.length);
    expect(readSync(descriptor, back, 0, back.length, 5)).toBe(bytes.length);
    expect(back).toEqual(bytes);
    closeSync(descriptor);
    return sum!;
  }

  it("are summed so that a changed bit, a swapped word or a missing byte shows", async () => {
    // Three whole rounds of eight words, and a rest.
    const bytes = store("F32", sample(60, 5)).bytes.slice(0, 213);
    const sum = await sumOf(bytes);
    expect(await sumOf(bytes.slice())).toBe(sum);
    const changed: Uint8Array[] = [];
    for (let bit = 0; bit < 8 * bytes.length; bit++) {
      changed.push(bytes.slice());
      changed.at(-1)![bit >> 3]! ^= 1 << (bit & 7);
    }
    for (let length = 0; length < bytes.length; length++) changed.push(bytes.slice(0, length));
    for (const distance of [8, 64]) {
      const swapped = bytes.slice();
      swapped.copyWithin(0, distance, distance + 8);
      swapped.set(bytes.subarray(0, 8), distance);
      changed.push(swapped);
    }
    const descriptor = opened();
    const pieces = changed.map((piece, i) => ({ bytes: piece, to: { descriptor, position: 256 * i } }));
    const sums = await writeStored(pieces);
    closeSync(descriptor);
    expect(sums.indexOf(sum)).toBe(-1);
    expect(sums.every((each) => Number.isSafeInteger(each) && each >= 0)).toBe(true);
  });

  it("have the mean that they have in memory, and are left there", async () => {
    // More than one stretch of 16 Ki elements, and a rest.
    const sources = dtypes.map((dtype, i) => store(dtype, sample(40_001, i)));
    const descriptor = opened();
    const [weights, target, expected] = [[0.5, 0.3, 0.2], room("F16", 40_001), room("F16", 40_001)];
    const inFile = sources.map(({ dtype, bytes }, i) => {
      const from = { descriptor, position: 200_000 * i + 3 };
      return { dtype, bytes: new Uint8Array(bytes.length), from, stored: bytes };
    });
    await writeStored(inFile.map(({ stored, from }) => ({ bytes: stored, to: from })));
    const found = await meanOfStored(inFile, weights, target);
    expect(found).toEqual(await meanOfStored(sources, weights, expected));
    expect(Buffer.compare(target.bytes, expected.bytes)).toBe(0);
    for (const { bytes, stored } of inFile) expect(Buffer.compare(bytes, stored)).toBe(0);
    closeSync(descriptor);
  });

  it.runIf(existsSync("/dev/full"))("on a full disk are an error of the system", async () => {
    const descriptor = openSync("/dev/full", "w");
    const to = { descriptor, position: 0 };
    await expect(writeStored([{ bytes: new Uint8Array(8), to }])).rejects.toMatchObject({ code: "ENOSPC" });
    closeSync(descriptor);
  });

  it("that cannot be read or written are an error with the reason", async () => {
    const descriptor = opened();
    const bytes = new Uint8Array(8);
    const to = { descriptor, position: 0 };
    await writeStored([{ bytes, to }]);
    await expect(storedChecksums([{ bytes: 9, from: to }])).rejects.toMatchObject({
      code: "EIO",
      message: "cannot read weights: the file became shorter while it was read",
    });
    closeSync(descriptor);
    const closed = { dtype: "F32", bytes, from: { descriptor: 1 << 20, position: 0 } } as const;
    await expect(meanOfStored([closed], [1])).rejects.toThrow("cannot read weights: Bad file descriptor");
    await expect(writeStored([{ bytes, to: closed.from }])).rejects.toThrow(
      "cannot write weights: Bad file descriptor",
    );
  });
});
