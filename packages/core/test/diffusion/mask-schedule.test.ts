import { describe, expect, it } from "vitest";
import {
  haltonCell,
  haltonCounts,
  haltonOrder,
  haltonPriority,
  maskCounts,
  maskSchedule,
} from "../../src/diffusion/index.js";

describe("maskSchedule", () => {
  it("falls from 1 to 0", () => {
    for (const kind of ["cosine", "linear", "square", "arccos"] as const) {
      expect(maskSchedule(kind, 0)).toBeCloseTo(1, 15);
      expect(maskSchedule(kind, 1)).toBeCloseTo(0, 15);
      for (let t = 0; t < 1; t += 0.125) expect(maskSchedule(kind, t + 0.125)).toBeLessThan(maskSchedule(kind, t));
    }
    expect(maskSchedule("cosine", 1 / 3)).toBeCloseTo(Math.sqrt(3) / 2, 15);
    expect(maskSchedule("linear", 0.25)).toBe(0.75);
    expect(maskSchedule("square", 0.5)).toBe(0.75);
    expect(maskSchedule("arccos", 0.5)).toBeCloseTo(2 / 3, 15);
    expect(() => maskSchedule("cosine", 1.1)).toThrow(/in \[0, 1\]/);
    expect(() => maskSchedule("cosine", Number.NaN)).toThrow(/in \[0, 1\]/);
  });

  it("gives the counts of a schedule evaluated before each step", () => {
    const counts = Array.from({ length: 18 }, (_, i) => Math.max(Math.floor(maskSchedule("cosine", i / 17) * 256), 1));
    expect(counts.join(" ")).toBe("256 254 251 246 238 229 217 204 189 172 154 134 114 92 70 47 23 1");
  });
});

describe("maskCounts", () => {
  // MaskGIT's own state ends with one token masked, but returns the sample of before: 0 here.
  it.each([
    [64, 8, "62 59 53 45 35 24 12 0"],
    [256, 12, "253 247 236 221 203 181 155 128 97 66 33 0"],
    [256, 24, "255 253 251 247 242 236 229 221 212 203 192 181 168 155 142 128 113 97 82 66 49 33 16 0"],
  ])("of %d tokens in %d steps are MaskGIT's", (tokens, steps, expected) => {
    expect(maskCounts(tokens, steps).join(" ")).toBe(expected);
  });

  it("keeps whole products whole", () => {
    expect(maskCounts(10, 10, "linear")).toEqual([9, 8, 7, 6, 5, 4, 3, 2, 1, 0]);
  });

  it("reveals a token in every step while there are any", () => {
    expect(maskCounts(3, 6)).toEqual([2, 1, 0, 0, 0, 0]);
    expect(maskCounts(0, 2)).toEqual([0, 0]);
    expect(maskCounts(5, 1)).toEqual([0]);
    expect(() => maskCounts(5, 0)).toThrow(/steps >= 1/);
  });
});

describe("Halton order", () => {
  it.each([
    [4, "(2,1)(1,2)(3,0)(0,1)(2,3)(1,0)(3,2)(0,3)", 25],
    [8, "(4,2)(2,5)(6,0)(1,3)(5,6)(3,1)(7,4)(0,7)", 79],
    [16, "(8,5)(4,10)(12,1)(2,7)(10,12)(6,3)(14,8)(1,14)", undefined],
  ])("of %d x %d cells begins as published", (side, first, points) => {
    const order = [...haltonOrder(side, side)];
    expect(
      order
        .slice(0, 8)
        .map((cell) => `(${Math.floor(cell / side)},${cell % side})`)
        .join(""),
    ).toBe(first);
    expect([...order].sort((a, b) => a - b)).toEqual(Array.from({ length: side * side }, (_, i) => i));
    if (points === undefined) return;
    const covered = (count: number) =>
      new Set(Array.from({ length: count }, (_, i) => haltonCell(i + 1, side, side).join())).size;
    expect(covered(points)).toBe(side * side);
    expect(covered(points - 1)).toBe(side * side - 1);
  });

  it("covers grids that are not square", () => {
    expect(new Set(haltonOrder(3, 7)).size).toBe(21);
    expect([...haltonOrder(1, 1)]).toEqual([0]);
    expect(() => haltonOrder(0, 4)).toThrow(/whole/);
  });

  it("ranks the cells", () => {
    const [order, priority] = [haltonOrder(4, 4), haltonPriority(4, 4)];
    expect(priority[order[0]!]).toBe(16);
    expect(priority[order[15]!]).toBe(1);
  });

  it("reveals 5 5 5 6 6 7 9 21 tokens of 64 in 8 steps", () => {
    const counts = [64, ...haltonCounts(64, 8)];
    expect(counts.slice(1).map((count, i) => counts[i]! - count)).toEqual([5, 5, 5, 6, 6, 7, 9, 21]);
    expect(haltonCounts(3, 5)).toEqual([2, 1, 0, 0, 0]);
  });
});
