import { spawn } from "node:child_process";
import { once } from "node:events";
import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { reproduceCommand, settingsOf } from "../../src/commands/reproduce.js";
import {
  arms,
  expectations,
  findings,
  type ResultRow,
  readResults,
  rowsOfSeed,
  seenScenes,
  summarise,
  tests,
} from "../../src/experiment/index.js";
import { drawScene } from "../../src/world/index.js";
import { temporaryFolder } from "../folder.js";

const train = (steps: number) => ({ steps, batch: 4 });
/** Models of seconds that learn nothing. */
const tiny = {
  ...{ pairs: 16, synthetic: 8, vocabulary: 320, testPictures: 6, timedSteps: 1, workers: 1 },
  tokenizer: { model: { imageSize: 16, patchSize: 2, channels: [16, 16], codes: 32 }, train: train(2) },
  generator: { model: { width: 32, layers: 1, feedForward: 32, maxTextTokens: 48 }, train: train(2) },
  sampling: { steps: 2 },
  language: { model: { hiddenSize: 32, layers: 1, heads: 2, intermediateSize: 32 }, train: { steps: 300, batch: 8 } },
  vlm: { model: { width: 16, latents: 2, heads: 2, layers: 1 }, train: train(2) },
};

/** Runs the built command: its workers are processes. @returns what it printed */
async function reproduce(folder: string, flags = ""): Promise<{ code: number | null; printed: string }> {
  await writeFile(join(folder, "tiny.json"), JSON.stringify(tiny));
  const cli = join(import.meta.dirname, "../../bin/synth2.js");
  const args = [
    cli,
    "reproduce",
    "--config",
    "tiny.json",
    "--output",
    "runs",
    "--seeds",
    "1",
    ...flags.split(" ").filter(Boolean),
  ];
  const child = spawn(process.execPath, args, { cwd: folder, stdio: ["ignore", "pipe", "pipe"] });
  let printed = "";
  for (const stream of [child.stdout, child.stderr]) stream.on("data", (text) => (printed += text));
  const [code] = (await once(child, "close")) as [number | null];
  return { code, printed };
}

/** What does not change from run to run. */
const lasting = (rows: readonly ResultRow[]) =>
  rows.map(({ seconds: _, efficiency: __, ...row }) => row).toSorted((a, b) => a.arm.localeCompare(b.arm));

describe("the experiment", () => {
  it("has one line for each arm, runs a lost one again to the same result, and keeps its settings", async () => {
    const folder = await temporaryFolder();
    const output = join(folder, "runs");
    const { code, printed } = await reproduce(folder);
    expect(code, printed).toBe(0);
    for (const statement of Object.values(expectations)) expect(printed).toContain(statement);
    const rows = await readResults(output);
    expect(rows.map(({ arm }) => arm)).toEqual(rowsOfSeed);
    const { efficiency } = rows.at(-1)!;
    expect(efficiency!.map(({ seconds }) => Object.values(seconds).map((value) => value > 0))).toEqual([
      [false, false, false, true],
      [false, false, true, true],
      [true, false, false, true],
      [true, true, true, true],
    ]);
    expect(efficiency!.every(({ peakBytes }) => peakBytes > 2 ** 20)).toBe(true);
    for (const name of ["report.html", "summary.md"]) {
      const text = await readFile(join(output, name), "utf8");
      expect(text).toContain("GenPair helps on novel combinations");
      expect(text).toMatch(
        /not all unseen: \d+ % of test, \d+ % of balanced, 0 % of novel are scenes that stand among/,
      );
    }
    // The line of an arm torn, the row after it lost.
    const lines = (await readFile(join(output, "results.jsonl"), "utf8")).split("\n").filter(Boolean);
    await writeFile(join(output, "results.jsonl"), `${lines.slice(0, -2).join("\n")}\n${lines.at(-2)!.slice(0, 40)}`);
    expect((await reproduce(folder)).code).toBe(0);
    expect(lasting(await readResults(output))).toEqual(lasting(rows));
    expect((await reproduce(folder, "--test-pictures 7")).printed).toContain("results with testPictures 6, not 7");
  }, 300_000);

  it("takes what is given beside --small, and a tenth of all updates", () => {
    const settings = (given: object) => settingsOf(reproduceCommand.schema.parse(given) as never);
    const whole = settings({});
    expect(whole).toMatchObject({ seeds: 5, testPictures: 300, timedSteps: 20 });
    expect(settings({ small: true })).toMatchObject({ seeds: 2, testPictures: 64, timedSteps: 4 });
    const given = { seeds: 3, testPictures: 10, timedSteps: 7 };
    expect(settings(given)).toEqual({ ...whole, ...given });
    const small = settings({ ...given, small: true, vlm: { train: { steps: 40 } } });
    expect(small).toMatchObject(given);
    const stepsOf = ({ pipeline: { tokenizer, vlm, synthetic } }: typeof small) => [
      tokenizer.train.steps,
      vlm.train.steps,
      synthetic,
    ];
    expect(stepsOf(whole)).toEqual([1500, 4500, 3000]);
    expect(stepsOf(small)).toEqual([150, 4, 300]);
  });

  it("says how many scenes of the tests stand among what is learned", () => {
    const settings = settingsOf(
      reproduceCommand.schema.parse({ seeds: 1, testPictures: 100, pairs: 1500, synthetic: 1500 }),
    );
    const seen = seenScenes(settings);
    const objectsOf = (split: "paired" | "test" | "novel" | "balanced", length: number, seed = 1) =>
      Array.from({ length }, (_, i) => {
        const { objects } = drawScene(split, seed, i, "small");
        return objects
          .map(({ colour, shape, size, row, column }) => [row, column, colour, shape, size].join())
          .sort()
          .join(";");
      });
    const share = (some: string[], others: string[]) =>
      some.filter((each) => others.includes(each)).length / some.length;
    expect(seen.test.pairs).toBe(share(objectsOf("test", 100), objectsOf("paired", 1500)));
    expect(seen.novel).toEqual({
      pairs: 0,
      truth: share(objectsOf("novel", 100), objectsOf("balanced", 1500, 0x10001)),
    });
    expect(Math.min(seen.test.pairs, seen.novel.truth)).toBeGreaterThan(0.1);
  });

  it("decides expectations by intervals over seeds", () => {
    const score = (cider: number) => ({ cider, pictures: 1, attributes: { exact: 0.5 } });
    /** CIDEr of each arm in each of three seeds, on every test. */
    const ciders: Record<string, number[]> = {
      "human only": [1, 1.1, 1.2],
      "human + GenImage": [1.01, 1.1, 1.21],
      "human + GenPair": [1.3, 1.42, 1.51],
      "human + GenPair, skewed captions": [1.2, 1.5, 1.4],
      "GenPair only": [1.3, 1.4, 1.5],
      "human + true pairs": [1.5, 1.6, 1.7],
    };
    const cell = (generation: string, path: string, ms: number) => ({
      ...{ generation, path, peakBytes: path === "pixels" ? 2 : 1, cachedBytes: 0 },
      seconds: { generate: 0, decode: 0, encode: 0, train: ms },
    });
    const rows = [1, 2, 3].flatMap((seed) => [
      { arm: "faithfulness", seed, faithfulness: { balanced: { ratio: 0.1 * seed } } },
      ...arms.map(({ name }) => ({
        ...{ arm: name, seed, seconds: 1, use: { own: 1, other: 2 } },
        scores: Object.fromEntries(tests.map((test) => [test, score(ciders[name]![seed - 1]!)])),
      })),
      {
        ...{ arm: "efficiency", seed },
        efficiency: [
          cell("cached", "embeddings", 1 + 0.01 * seed),
          cell("cached", "pixels", 2),
          cell("on the fly", "embeddings", 9.9 + 0.01 * seed),
          cell("on the fly", "pixels", 10),
        ],
      },
    ]) as unknown as ResultRow[];
    const holds = Object.fromEntries(findings(rows).map(({ statement, holds: answer }) => [statement, answer]));
    expect(holds).toEqual({
      [expectations.faithful]: "no",
      [expectations.room]: "yes",
      [expectations.novel]: "yes",
      [expectations.balanced]: "yes",
      // Gains 30, 29.1 and 25.8 %.
      [expectations.gain]: "yes",
      [expectations.image]: "yes",
      [expectations.captions]: "not shown",
      [expectations.only]: "no",
      [expectations.cached]: "yes",
      [expectations.onTheFly]: "no",
      [expectations.memory]: "yes",
    });
    const [human, , pair] = summarise(rows);
    expect(human!.againstHuman).toBeUndefined();
    expect(pair!.againstHuman!.novel.mean).toBeCloseTo(31, 9);
    expect(pair!.cider.test).toBeCloseTo(141, 9);
    expect(findings(rows.filter(({ seed }) => seed === 1)).every(({ holds: answer }) => answer === "not shown")).toBe(
      true,
    );
  });
});
