import { spawnSync } from "node:child_process";
import { access, mkdir, mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { hostname, tmpdir } from "node:os";
import path from "node:path";
import { afterEach, beforeEach, expect, test } from "vitest";
import { parse } from "yaml";
import { openRunDirectory, sameConfig } from "../../src/train/index.js";

let folder: string;
beforeEach(async () => {
  folder = await mkdtemp(path.join(tmpdir(), "trefoil-run-"));
});
afterEach(() => rm(folder, { recursive: true }));

const config = { train: { steps: 3, learningRate: 1e-5 }, name: "yes: #no" };
const now = () => new Date(2026, 10, 23, 6, 35, 0);

test("a named run gets a dated directory, and two of one second get two", async () => {
  await using first = await openRunDirectory({ name: "fine tune/μ", root: folder, config, now });
  await using second = await openRunDirectory({ name: "fine tune/μ", root: folder, config, now });
  expect(path.basename(first.path)).toBe("fine-tune-μ-2026-11-23-063500");
  expect(path.basename(second.path)).toBe("fine-tune-μ-2026-11-23-063500-2");
});

test("the saved configuration reads back, under the versions that made it", async () => {
  await using run = await openRunDirectory({ name: "finetune", root: folder, config, versions: { btx: "0.1.0" }, now });
  const text = await readFile(run.config, "utf8");
  expect(text).toMatch(
    /^# finetune, started 2026-11-2\dT[\d:.]+Z\n# btx 0\.1\.0, node v\d+\.\d+\.\d+, \w+ \w+\ntrain:\n/,
  );
  expect(parse(text)).toEqual(config);
  expect((await readdir(run.path)).sort()).toEqual(["checkpoints", "config.yaml", "run.lock"]);
});

test("a new run does not overwrite another, resuming needs one", async () => {
  const directory = path.join(folder, "run");
  await (await openRunDirectory({ name: "a", directory, config })).close();
  await expect(openRunDirectory({ name: "a", directory, config })).rejects.toMatchObject({
    code: "RUN_DIRECTORY_EXISTS",
  });
  const empty = path.join(folder, "empty");
  await mkdir(empty);
  await expect(openRunDirectory({ name: "a", directory: empty, resume: true, config })).rejects.toMatchObject({
    code: "RUN_DIRECTORY_MISSING",
  });
  await using resumed = await openRunDirectory({ name: "a", directory, resume: true, config: { steps: 9 } });
  expect(parse(await readFile(resumed.config, "utf8"))).toEqual({ steps: 9 });
});

test("a run of several stages is resumed with the configuration that it has, in any order and notation", async () => {
  const directory = path.join(folder, "run");
  const begun = { steps: 8, rate: 1e-5, stages: { a: [1, 2], b: "x", none: undefined }, data: "ab".repeat(32) };
  await (await openRunDirectory({ name: "a", directory, config: begun })).close();
  const open = (given: object) =>
    openRunDirectory({ name: "a", directory, resume: true, config: given, accept: sameConfig(given) });
  await (await open({ data: begun.data, stages: { b: "x", a: [1, 2] }, rate: 0.00001, steps: 8 })).close();
  const text = await readFile(path.join(directory, "config.yaml"), "utf8");
  for (const [given, words] of [
    [{ ...begun, steps: 9 }, "started with steps 8, not 9"],
    [{ ...begun, stages: { ...begun.stages, a: [2, 1] } }, "stages.a [1,2], not [2,1]"],
    [{ ...begun, data: "cd".repeat(32) }, "data abababababab…, not cdcdcdcdcdcd…"],
    [{ ...begun, more: true }, "more unset, not true"],
    [{ steps: 8, rate: 1e-5 }, "not unset"],
  ] as const)
    await expect(open(given)).rejects.toMatchObject({
      code: "TREFOIL_RESUME",
      message: expect.stringContaining(words),
    });
  expect(await readFile(path.join(directory, "config.yaml"), "utf8")).toBe(text);
  await (await open(begun)).close();
});

test("two writers: the second is refused and told who holds the lock, until it is given back", async () => {
  const directory = path.join(folder, "run");
  const open = () => openRunDirectory({ name: "a", directory, resume: true, config });
  const first = await openRunDirectory({ name: "a", directory, config });
  await expect(open()).rejects.toMatchObject({
    code: "RUN_DIRECTORY_LOCKED",
    message: expect.stringContaining(`process ${process.pid} on ${hostname()}`),
  });
  await first.close();
  await expect(access(path.join(directory, "run.lock"))).rejects.toThrow();
  await (await open()).close();
});

test("a lock is taken over when its process is gone or its number belongs to another, never from another host", async () => {
  const directory = path.join(folder, "run");
  await (await openRunDirectory({ name: "a", directory, config })).close();
  const lock = path.join(directory, "run.lock");
  const open = () => openRunDirectory({ name: "a", directory, resume: true, config });
  const dead = spawnSync(process.execPath, ["-e", ""]).pid;

  await writeFile(lock, JSON.stringify({ pid: dead, host: hostname(), since: "then" }));
  await (await open()).close();
  if (process.platform === "linux") {
    await writeFile(lock, JSON.stringify({ pid: process.pid, host: hostname(), processStart: "1", since: "then" }));
    await (await open()).close();
  }
  await writeFile(lock, JSON.stringify({ pid: dead, host: "elsewhere", since: "then" }));
  await expect(open()).rejects.toThrow(/process \d+ on elsewhere, since then; wait for it, or delete/);
  await writeFile(lock, "");
  await expect(open()).rejects.toThrow(/an unknown process/);
});

test("of many that find a stale lock at once, one gets it", async () => {
  const directory = path.join(folder, "run");
  await (await openRunDirectory({ name: "a", directory, config })).close();
  const dead = spawnSync(process.execPath, ["-e", ""]).pid;
  await writeFile(path.join(directory, "run.lock"), JSON.stringify({ pid: dead, host: hostname(), since: "then" }));
  const attempts = await Promise.allSettled(
    Array.from({ length: 8 }, () => openRunDirectory({ name: "a", directory, resume: true, config })),
  );
  const taken = attempts.filter((attempt) => attempt.status === "fulfilled");
  expect(taken).toHaveLength(1);
});
