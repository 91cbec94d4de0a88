import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { expect, test } from "vitest";
import { type ExperimentSettings, readResults, runExperiment, summarise } from "../../src/index.js";
import { temporaryFolder } from "../stages/small.js";

const settings: ExperimentSettings = {
  seeds: 2,
  offsets: [0, 1],
  flips: [0.2],
  samples: [2],
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
  expect(await runExperiment(folder.path, settings, {})).toBe(true);
  const rows = await readResults(folder.path);
  // Per seed: four arms (SFT, PPO, contrast, RLOO) in each of three offset cells, five with DPO under flips.
  expect(rows).toHaveLength(2 * (3 * 4 + 5));
  expect(rows.filter(({ failure }) => failure !== undefined)).toEqual([]);
  const { arms, verdicts, holmP } = summarise(rows, settings);
  expect(verdicts[1]).toMatchObject({ holds: true, evidence: expect.stringContaining("2 of 2 seeds") });
  expect(Object.keys(holmP)).toHaveLength(4);
  expect(arms.find(({ arm }) => arm === "PPO")!.difference).toBeUndefined();
  const plain = rows.filter(({ arm, seed }) => arm === "PPO" && seed === 1).map(({ weights }) => weights);
  expect(new Set(plain).size).toBe(plain.length);

  const path = join(folder.path, "results.jsonl");
  const text = await readFile(path, "utf8");
  await writeFile(path, text.slice(0, -20));
  expect(await readResults(folder.path)).toHaveLength(rows.length - 1);
  expect(await runExperiment(folder.path, settings, {})).toBe(true);
  expect(await readResults(folder.path)).toEqual(rows);
}, 120_000);
