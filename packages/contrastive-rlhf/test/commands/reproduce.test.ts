import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { expect, test } from "vitest";
import { type ExperimentSettings, falsifierFindings, readResults, runExperiment, summarise } from "../../src/index.js";
import { temporaryFolder } from "../stages/small.js";

const settings: ExperimentSettings = {
  seeds: 2,
  offsets: [0, 1],
  flips: [0.2],
  binary: [0.2],
  samples: [2],
  showcaseSeeds: 0,
  tuned: { learningRate: 1e-3, klCoefficient: 0.05 },
  headline: 2,
  prompts: 64,
  fewPrompts: 16,
  heldOutPrompts: 8,
  iterations: 3,
  sftSteps: 20,
  rewardSteps: 5,
};

test("the experiment: one line per arm, contrast blind to offsets, a torn line run again", async () => {
  await using folder = await temporaryFolder();
  expect(await runExperiment(folder.path, settings, { workers: 1 })).toBe(true);
  const rows = await readResults(folder.path);
  // Per seed: six arms (SFT, DPO, PPO, contrast, RLOO twice) in four cells, three in the one of few prompts.
  expect(rows).toHaveLength(2 * (4 * 6 + 3));
  expect(rows.filter(({ failure }) => failure !== undefined)).toEqual([]);
  const [, invariance] = falsifierFindings(rows, settings);
  expect(invariance).toMatchObject({ holds: "yes", evidence: expect.stringContaining("2 of 2 seeds") });
  const { arms, holmP } = summarise(rows, settings);
  expect(Object.keys(holmP)).toHaveLength(5);
  expect(arms.find(({ arm }) => arm === "PPO")!.difference).toBeUndefined();
  const plain = rows.filter(({ arm, seed }) => arm === "PPO" && seed === 1).map(({ weights }) => weights);
  expect(new Set(plain).size).toBe(plain.length);

  const path = join(folder.path, "results.jsonl");
  const text = await readFile(path, "utf8");
  await writeFile(path, text.slice(0, -20));
  expect(await readResults(folder.path)).toHaveLength(rows.length - 1);
  expect(await runExperiment(folder.path, settings, { workers: 1 })).toBe(true);
  // All but the time it took.
  const timeless = (some: typeof rows) => some.map(({ seconds: _, ...row }) => row);
  expect(timeless(await readResults(folder.path))).toEqual(timeless(rows));
}, 120_000);
