import { describe, expect, it } from "vitest";
import { Permutation, philox } from "../../src/data/index.js";

it("philox gives the known answers of Random123", () => {
  const hex = (words: number[]) => words.map((word) => word.toString(16).padStart(8, "0")).join(" ");
  const ones = 0xffffffff;
  expect(hex(philox([0, 0, 0, 0], [0, 0]))).toBe("6627e8d5 e169c58d bc57ac4c 9b00dbd8");
  expect(hex(philox([ones, ones, ones, ones], [ones, ones]))).toBe("408f276d 41c83b0e a20bc7c6 6d5451fd");
  expect(hex(philox([0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344], [0xa4093822, 0x299f31d0]))).toBe(
    "d16cfe09 94fdcceb 5001e420 24126ea1",
  );
});

describe("Permutation", () => {
  it("visits everything once", () => {
    for (const size of [1, 2, 3, 4, 5, 16, 17, 1000, 65_537]) {
      const order = new Permutation(size, 7, 3);
      const seen = new Set(Array.from({ length: size }, (_, i) => order.at(i)));
      expect(seen.size).toBe(size);
      expect(Math.max(...[...seen].slice(0, 1000))).toBeLessThan(size);
    }
  });

  it("stays inside for sizes beyond 32 bits", () => {
    const size = 2 ** 45 + 12345;
    const order = new Permutation(size, 1, 0);
    const values = Array.from({ length: 1000 }, (_, i) => order.at(size - 1 - i));
    expect(new Set(values).size).toBe(1000);
    expect(values.every((value) => Number.isSafeInteger(value) && value >= 0 && value < size)).toBe(true);
    expect(Math.max(...values)).toBeGreaterThan(size * 0.98);
  });

  it("depends on seed, epoch and stream", () => {
    const orders = [
      [1, 0, 0],
      [2, 0, 0],
      [1, 1, 0],
      [1, 0, 1],
      [2 ** 40 + 1, 0, 0],
    ].map(([seed, epoch, stream]) => {
      const order = new Permutation(50, seed as number, epoch as number, stream as number);
      return Array.from({ length: 50 }, (_, i) => order.at(i)).join();
    });
    expect(new Set(orders).size).toBe(orders.length);
  });

  it("puts every element at every place equally often", () => {
    const [size, trials] = [6, 12_000];
    const counts = new Float64Array(size * size);
    for (let epoch = 0; epoch < trials; epoch++) {
      const order = new Permutation(size, 99, epoch);
      for (let i = 0; i < size; i++) {
        const cell = i * size + order.at(i);
        counts[cell] = (counts[cell] as number) + 1;
      }
    }
    const expected = trials / size;
    const chiSquared = counts.reduce((sum, count) => sum + (count - expected) ** 2 / expected, 0);
    // 25 degrees of freedom: 99.9 % of uniform orders stay under 52.6
    expect(chiSquared).toBeLessThan(52.6);
  });
});
