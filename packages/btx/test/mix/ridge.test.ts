import { InitialValues } from "@trefoil/core";
import { describe, expect, it } from "vitest";
import { RidgeMoments, ridgeRouter } from "../../src/index.js";

describe("ridgeRouter", () => {
  const [d, experts, perExpert] = [6, 3, 20];
  const initial = new InitialValues(5);
  // Expert 2 gets no tokens.
  const inputs = [0, 1].map(() => initial.normal([perExpert, d], 1));
  const moments = new RidgeMoments(d, experts);
  inputs.forEach((each, expert) => {
    moments.add(each, expert);
  });

  it("is the minimum of the ridge objective: its gradient is 0", () => {
    const [lambda, sharpness] = [0.05, 3];
    const rows = ridgeRouter(moments, { lambda, sharpness });
    const all = inputs.flatMap((each, expert) =>
      Array.from({ length: perExpert }, (_, t) => ({ b: each.subarray(t * d, (t + 1) * d), expert })),
    );
    const meanSquare = all.reduce((sum, { b }) => sum + b.reduce((a, x) => a + x * x, 0), 0) / d;
    for (let e = 0; e < experts; e++) {
      const w = Array.from(rows.subarray(e * d, (e + 1) * d), (value) => value / sharpness);
      const share = e === 2 ? 0 : 0.5;
      for (let k = 0; k < d; k++) {
        let gradient = lambda * meanSquare * w[k]!;
        for (const { b, expert } of all) {
          const error = w.reduce((sum, value, i) => sum + value * b[i]!, 0) - (Number(expert === e) - share);
          gradient += error * b[k]!;
        }
        // The rows were rounded to float32.
        expect(Math.abs(gradient)).toBeLessThan(1e-5);
      }
    }
    expect([...rows.subarray(2 * d)]).toEqual(new Array(d).fill(0));
  });

  it("takes moments from elsewhere, and sends separable domains to their experts", () => {
    const apart = new RidgeMoments(2, 2);
    apart.addSums([10, 0, 0, 0], [10, 0], 10, 0);
    apart.addSums([0, 0, 0, 10], [0, 10], 10, 1);
    const [a0, a1, b0, b1] = ridgeRouter(apart, { lambda: 1e-6, sharpness: 1 });
    expect(a0!).toBeCloseTo(0.5, 4);
    expect(a1!).toBeCloseTo(-0.5, 4);
    expect(b0!).toBeCloseTo(-0.5, 4);
    expect(b1!).toBeCloseTo(0.5, 4);
  });

  it("refuses to solve without tokens or without enough of them", () => {
    expect(() => ridgeRouter(new RidgeMoments(2, 2))).toThrow("none were added");
    const flat = new RidgeMoments(2, 2);
    flat.add(Float32Array.of(1, 0), 0);
    expect(() => ridgeRouter(flat, { lambda: 0 })).toThrow("raise lambda");
  });
});
