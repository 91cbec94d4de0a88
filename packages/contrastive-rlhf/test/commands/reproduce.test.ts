import { readFile, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { expect, test } from "vitest";
import { reproduceCommand, settingsOf } from "../../src/commands/reproduce.js";
import {
  claimFindings,
  type ExperimentSettings,
  falsifierFindings,
  type ResultRow,
  readResults,
  runExperiment,
  summarise,
  tunePpo,
} from "../../src/index.js";
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
  dpoSteps: 5,
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
  // A folder of before settings were kept goes on.
  await rm(join(folder.path, "settings.json"));
  expect(await runExperiment(folder.path, settings, { workers: 1 })).toBe(true);
  // All but the time it took.
  const timeless = (some: typeof rows) => some.map(({ seconds: _, ...row }) => row);
  expect(timeless(await readResults(folder.path))).toEqual(timeless(rows));

  const longer = runExperiment(folder.path, { ...settings, dpoSteps: 6 }, { workers: 1 });
  await expect(longer).rejects.toMatchObject({
    code: "TREFOIL_RESUME",
    message: expect.stringContaining("results with dpoSteps 5, not 6"),
  });
  const tuning = tunePpo(folder.path, { ...settings, iterations: 9 }, {});
  await expect(tuning).rejects.toMatchObject({ code: "TREFOIL_RESUME" });
}, 120_000);

test("a gain that the seeds do not tell from nothing is not shown; one below nothing does not hold", () => {
  const gains = { shown: [0.3, 0.4, 0.35, 0.3], none: [0.3, -0.3, 0.2, -0.25], against: [-0.3, -0.4, -0.35, -0.3] };
  const verdicts = Object.entries(gains).map(([, some]) => {
    const rows = some.flatMap((gain, i) =>
      [
        ["PPO", 1],
        ["DPO", 1],
        ["contrast k=2", 1 + gain],
      ].map(
        ([arm, gold]): ResultRow =>
          ({ cell: "flips 0.2", arm, seed: i + 1, gold, golds: [gold, gold], lengths: [3, 3] }) as ResultRow,
      ),
    );
    const claims = claimFindings(rows, { ...settings, offsets: [], binary: [] });
    const of = (words: string) => claims.find(({ statement }) => statement.includes(words))!.holds;
    return [of("beat DPO"), of("beat PPO under the paper's")];
  });
  expect(verdicts).toEqual([
    ["yes", "open"],
    ["not shown", "open"],
    ["no", "open"],
  ]);
});

test("a lead over DPO on good labels does not hide that it is lost on bad ones", () => {
  const rows = [0, 0.4].flatMap((rate) =>
    [0.1, 0.12, 0.11, 0.09].flatMap((noise, i) =>
      [
        ["DPO", 1],
        ["contrast k=2", 1 + (rate === 0 ? 5 : -1) * noise],
      ].map(([arm, gold]): ResultRow => ({ cell: `flips ${rate}`, arm, seed: i + 1, gold }) as ResultRow),
    ),
  );
  const claims = claimFindings(
    rows.map((row) => ({ ...row, golds: [row.gold, row.gold], lengths: [3, 3] })),
    { ...settings, offsets: [], binary: [], flips: [0, 0.4] },
  );
  expect(claims.find(({ statement }) => statement.includes("beat DPO"))).toMatchObject({
    holds: "partly",
    evidence: expect.stringContaining("better in 1 and worse in 1 of 2 cells"),
  });
});

test("--small is less of everything but of what is given beside it", () => {
  const settingsFor = (given: object) => {
    const { output: _, tune: __, workers: ___, ...config } = reproduceCommand.schema.parse(given);
    return settingsOf(config);
  };
  expect(settingsFor({})).toMatchObject({ seeds: 20, samples: [1, 4, 16, 64], showcaseSeeds: 2 });
  expect(settingsFor({ small: true })).toMatchObject({ seeds: 3, samples: [4, 16], flips: [0, 0.2], showcaseSeeds: 0 });
  expect(settingsFor({ small: true, seeds: 5 })).toMatchObject({ seeds: 5, samples: [4, 16] });
});
