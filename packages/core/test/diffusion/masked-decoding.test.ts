import { describe, expect, it } from "vitest";
import { haltonCounts, haltonPriority, maskCounts } from "../../src/diffusion/index.js";
import { compile, maskedDiffusionStep, RandomGenerator, type Tensor, tensor } from "../../src/index.js";

const [batch, positions, codes, mask] = [2, 64, 12, 12];
// A stand-in for a model: logits of its own at every position.
const logits = tensor(
  Float32Array.from({ length: batch * positions * codes }, (_, i) => 3 * Math.sin(i * 12.9898)),
  { shape: [batch, positions, codes] },
);

/** Decodes from `start` [B, N] and returns the tokens after every step. */
async function decode(start: Int32Array, seed: number, counts: number[][], priority?: Float32Array) {
  const random = new RandomGenerator(seed);
  const step = compile((tokens: Tensor, remaining: Tensor, controls: Tensor, order: Tensor) =>
    random.maskedDiffusionStep(
      { logits, tokens, remaining, controls, ...(priority ? { priority: order } : {}) },
      { maskToken: mask, topK: 8 },
    ),
  );
  const states: Int32Array[] = [];
  let tokens = tensor(start, { shape: [batch, positions] });
  for (const [s, remaining] of counts.entries()) {
    const controls = tensor([0, 1, 4.5 * (1 - (s + 1) / counts.length)]);
    const result = await step(tokens, tensor(Int32Array.from(remaining)), controls, tensor(priority ?? [0]));
    tokens = result.tokens;
    states.push(Int32Array.from((await tokens.data()) as Int32Array));
  }
  return states;
}

const maskedIn = (tokens: Int32Array, row: number): number =>
  tokens.subarray(row * positions, (row + 1) * positions).filter((token) => token === mask).length;

describe("masked decoding", () => {
  // Row 0 from nothing; row 1 paints in: every fourth token is given.
  const start = new Int32Array(batch * positions).fill(mask);
  for (let i = 0; i < positions; i += 4) start[positions + i] = i % codes;
  const [all, some] = [maskCounts(64, 8), maskCounts(48, 8)];
  const counts = all.map((count, s) => [count, some[s]!]);

  it("follows the schedule and never changes a known token", async () => {
    const states = await decode(start, 7, counts);
    let before: Int32Array = start;
    for (const [s, after] of states.entries()) {
      expect([maskedIn(after, 0), maskedIn(after, 1)]).toEqual(counts[s]);
      before.forEach((token, i) => {
        if (token !== mask) expect(after[i]).toBe(token);
      });
      before = after;
    }
    expect(Math.max(...before)).toBeLessThan(codes);
  });

  it("gives the same tokens for the same seed, others for another", async () => {
    const last = async (seed: number) => (await decode(start, seed, counts)).at(-1);
    const first = await last(7);
    expect(await last(7)).toEqual(first);
    expect(await last(8)).not.toEqual(first);
  });

  it("reveals cells in Halton order", async () => {
    const empty = new Int32Array(batch * positions).fill(mask);
    const schedule = haltonCounts(64, 8).map((count) => [count, count]);
    const priority = haltonPriority(8, 8);
    for (const [s, state] of (await decode(empty, 3, schedule, priority)).entries()) {
      for (let cell = 0; cell < 64; cell++) expect(state[cell] === mask).toBe(priority[cell]! <= schedule[s]![0]!);
    }
  });

  it("names what does not fit", () => {
    const given = {
      logits,
      tokens: tensor(start, { shape: [batch, positions] }),
      remaining: tensor(new Int32Array(batch)),
      controls: tensor([0, 1, 0]),
    };
    const state = tensor(new Int32Array(4));
    expect(() =>
      maskedDiffusionStep({ ...given, remaining: tensor(new Int32Array(3)) }, { maskToken: mask }, state),
    ).toThrow(/remaining must be \[B\]/);
    expect(() => maskedDiffusionStep({ ...given, controls: tensor([1, 2]) }, { maskToken: mask }, state)).toThrow(
      /controls/,
    );
    expect(() => maskedDiffusionStep(given, { maskToken: mask, topP: 0 }, state)).toThrow(/topP/);
    expect(() =>
      maskedDiffusionStep(
        { ...given, tokens: tensor(new Float32Array(128), { shape: [2, 64] }) },
        { maskToken: mask },
        state,
      ),
    ).toThrow(/tokens must be i32/);
  });
});
