import { expect, it } from "vitest";

import {
  activeParameters,
  armName,
  armsOf,
  type ExperimentSettings,
  findings,
  type ResultRow,
  specialisation,
  timeSpent,
} from "../../src/experiment/index.js";

const settings = { seeds: 3, full: ["levers"], shares: [0.5] } as unknown as ExperimentSettings;

it("says how much experts tell of domains: nothing, everything, half", () => {
  const table = (a: number[], b: number[]) =>
    [a, b].map((row, i) => ({ domain: String(i), share: [row], weight: [row] }));
  expect(specialisation(table([0.5, 0.5], [0.5, 0.5]))).toBeCloseTo(0, 12);
  expect(specialisation(table([1, 0], [0, 1]))).toBeCloseTo(1, 12);
  // One domain on one expert, the other on both: H(E) - H(E|D) = ln 4 - 3/4 ln 3 - 1/2 ln 2 over ln 2.
  const bits = (Math.log(4) - 0.75 * Math.log(3) - 0.5 * Math.log(2)) / Math.log(2);
  expect(specialisation(table([1, 0], [0.5, 0.5]))).toBeCloseTo(bits, 12);
});

it("counts the active parameters of Llama 2 7B and of its mixture as the paper does", () => {
  const config = {
    ...{ vocabSize: 32_000, hiddenSize: 4096, intermediateSize: 11_008, layers: 32, heads: 32, keyValueHeads: 32 },
    ...{ headDim: 128, tieWordEmbeddings: false },
  };
  expect(activeParameters(config)).toBe(6_738_415_616);
  expect(activeParameters({ ...config, experts: 4, expertsPerToken: 2 }) / 1e9).toBeCloseTo(11.067, 2);
});

it("decides expectations by intervals over seeds", () => {
  const arms = armsOf(settings).map(armName);
  expect(new Set(arms).size).toBe(arms.length);
  const row = (arm: string, seed: number, mean: number): ResultRow => ({
    ...{ arm, seed, mean, switching: mean, bitsPerByte: { prose: mean }, tokens: 1, flops: 1, seconds: 1 },
  });
  const scores: Record<string, number[]> = {
    "BTX top-2, levers": [1, 1.01, 1.02],
    "dense, same FLOPs": [1.1, 1.11, 1.13],
    "upcycled, same FLOPs": [0.9, 0.92, 0.91],
    "average, levers": [0.9, 1.2, 1.1],
  };
  const rows = Object.entries(scores).flatMap(([arm, means]) => means.map((mean, i) => row(arm, i + 1, mean)));
  const found = findings(rows, settings);
  const of = (words: string) =>
    found.find(({ statement }) => statement.includes(words) && statement.includes("(levers)"))!;
  expect(of("dense continued training at equal FLOPs").holds).toBe("yes");
  expect(of("sparse upcycling at equal FLOPs").holds).toBe("no");
  expect(of("plain average").holds).toBe("not shown");
  expect(of("dense continued training at equal time").evidence).toBe("fewer than two seeds");
});

it("counts the time in which arms were worked on, once where two were at a time", () => {
  const row = (began: number, ended: number, cpu: number) =>
    ({ work: { began: 60_000 * began, ended: 60_000 * ended, cpu } }) as ResultRow;
  // Two workers from 0 to 5, a pause, and one within the time of another.
  const rows = [row(0, 3, 60), row(1, 4, 60), row(3, 5, 30), row(10, 14, 120), row(11, 12, 30)];
  expect(timeSpent(rows)).toEqual({ wall: 9, cpu: 5 });
  expect(timeSpent([...rows, {} as ResultRow])).toBeUndefined();
  expect(timeSpent([])).toBeUndefined();
});
