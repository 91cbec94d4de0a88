import { appendFile, mkdtemp, readFile, truncate } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { formatError } from "../../src/cli/report-error.js";
import { type ExperimentPlan, pairedRows, readResultRows, readSettings, runUnits } from "../../src/index.js";

interface Row {
  unit: number;
  arm: string;
  threads?: string;
}

const folder = () => mkdtemp(join(tmpdir(), "trefoil-experiment-"));

function plan(directory: string, extra: Partial<ExperimentPlan<object, number, Row>> = {}) {
  const ran: string[] = [];
  const given: ExperimentPlan<object, number, Row> = {
    ...{ directory, settings: {}, mayChange: [], units: [1, 2, 3] },
    keysOf: (unit) => [`${unit} a`, `${unit} b`],
    keyOf: ({ unit, arm }) => `${unit} ${arm}`,
    run: async ({ unit, known }, signal, emit) => {
      for (const arm of ["a", "b"]) {
        if (signal?.aborted) return false;
        if (known.includes(`${unit} ${arm}`)) continue;
        ran.push(`${unit} ${arm}`);
        await emit({ unit, arm });
      }
      return true;
    },
    worker: new URL("./worker.mjs", import.meta.url),
    describe: ({ unit, arm }) => `${unit} ${arm}`,
    ...extra,
  };
  return { given, ran };
}

describe("an experiment of units", () => {
  it("keeps its settings: more rows may join, rows of other settings may not", async () => {
    const directory = await folder();
    const run = async (settings: { units?: number; size?: number; at?: readonly number[] }, units: number[]) => {
      const { given, ran } = plan(directory, { units });
      const prepared: string[] = [];
      const prepare = async () => void prepared.push("once");
      await runUnits({ workers: 1 }, { ...given, settings, mayChange: ["units"], prepare });
      expect(prepared).toEqual(["once"]);
      return ran;
    };
    // Of before settings were kept.
    await appendFile(join(directory, "results.jsonl"), '{"unit":1,"arm":"a"}\n');
    expect(await run({ units: 1, size: 2, at: [1] }, [1])).toEqual(["1 b"]);
    expect(await run({ at: [1], size: 2, units: 2 }, [1, 2])).toEqual(["2 a", "2 b"]);
    const kept = { units: 2, size: 2, at: [1] };
    expect(await readSettings(directory)).toEqual(kept);
    for (const [settings, message] of [
      [{ ...kept, at: [1, 2] }, "results with at [1], not [1,2]: name another folder"],
      [{ units: 2, at: [1] }, "results with size 2, not undefined"],
    ] as const) {
      await expect(run(settings, [1, 2, 3])).rejects.toMatchObject({
        code: "TREFOIL_RESUME",
        message: expect.stringContaining(message),
      });
    }
    expect(await readSettings(directory)).toEqual(kept);
    expect(await readResultRows<Row>(directory)).toHaveLength(4);
  });

  it("runs each arm once, stopped goes on, and runs an arm again whose line a kill has torn", async () => {
    const directory = await folder();
    const stopping = new AbortController();
    const first = plan(directory);
    const stoppingAt = {
      ...first.given,
      describe: ({ unit, arm }: Row) => {
        if (`${unit} ${arm}` === "2 a") stopping.abort();
        return "";
      },
    };
    const progress = { stage: () => ({ update() {}, succeed() {}, fail() {} }), log() {}, warn() {} } as never;
    expect(await runUnits({ workers: 1, progress, signal: stopping.signal }, stoppingAt)).toBe(false);
    expect(first.ran).toEqual(["1 a", "1 b", "2 a"]);
    const path = join(directory, "results.jsonl");
    await truncate(path, (await readFile(path)).length - 5);
    const second = plan(directory);
    expect(await runUnits({ workers: 1 }, second.given)).toBe(true);
    expect(second.ran).toEqual(["2 a", "2 b", "3 a", "3 b"]);
    expect((await readResultRows<Row>(directory)).map(second.given.keyOf)).toEqual([
      ...first.ran.slice(0, 2),
      ...second.ran,
    ]);
    const third = plan(directory);
    expect(await runUnits({ workers: 1 }, third.given)).toBe(true);
    expect(third.ran).toEqual([]);
  });

  it("gives units to processes of one thread, and tells why one broke", async () => {
    const directory = await folder();
    await appendFile(join(directory, "results.jsonl"), '{"unit":1,"arm":"a"}\n');
    expect(await runUnits({ workers: 2 }, plan(directory).given)).toBe(true);
    const rows = await readResultRows<Row>(directory);
    expect(rows.map(({ unit, arm }) => `${unit} ${arm}`).toSorted()).toEqual([
      "1 a",
      "1 b",
      "2 a",
      "2 b",
      "3 a",
      "3 b",
    ]);
    expect(rows.slice(1).every(({ threads }) => threads === "1")).toBe(true);
    const broken = plan(await folder(), { units: [13] }).given;
    await expect(runUnits({ workers: 2 }, broken)).rejects.toThrow("unit 13 breaks");
  });

  it("tells what a user can mend from a bug across processes, and ends the other processes", async () => {
    const failing = async (units: number[]) => {
      const error = await runUnits({ workers: 2 }, plan(await folder(), { units }).given).catch(
        (error: Error) => error,
      );
      return formatError(error, (_format, text) => text, {});
    };
    const start = performance.now();
    expect(await failing([15, 14, 1])).toBe("error: unit 14 has no room (TREFOIL_DISK). Cause: the disk is full.\n");
    expect(performance.now() - start).toBeLessThan(30_000);
    expect(await failing([13])).toMatch(/^error: Error: unit 13 breaks\n +at .*worker\.mjs/);
  });

  it("names a line that is no row", async () => {
    const directory = await folder();
    const file = join(directory, "results.jsonl");
    await appendFile(file, '{"unit":1,"arm":"a"}\n{"version":2}\n');
    await expect(readResultRows<Row>(directory)).rejects.toMatchObject({
      code: "TREFOIL_RESUME",
      message: expect.stringContaining(`${file}:2 is no row of an experiment`),
    });
  });

  it("pairs rows of the same seed", () => {
    const rows = (...seeds: number[]) => seeds.map((seed) => ({ seed }));
    const pairs = pairedRows(rows(1, 2, 4), rows(4, 3, 1));
    expect(pairs.map(([a, b]) => [a.seed, b.seed])).toEqual([
      [1, 1],
      [4, 4],
    ]);
  });
});
