import { spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { TokenFile } from "@trefoil/core";
import { expect, it } from "vitest";
import { branchStatus, domainsOfArrayJob, trainBranches } from "../../src/index.js";
import { temporaryFolder, writeCheckpoint } from "../checkpoints.js";
import { tinyDomains, tinySettings } from "./tiny.js";

const cli = fileURLToPath(new URL("../../bin/btx.js", import.meta.url));
const config = { maxPositions: 64, hiddenSize: 16, headDim: 4, intermediateSize: 24 };

/** A folder with a seed, and `btx branch` in it. */
async function workplace() {
  const folder = temporaryFolder();
  await writeCheckpoint(join(folder, "seed"), { seed: 3, config });
  const start = (output: string, more: readonly string[] = [], env: NodeJS.ProcessEnv = {}) => {
    const data =
      '--data.domains {"arithmetic":"@arithmetic","prose":"@prose"} --data.max-bytes 60000 --data.cache data';
    const train = "--train.steps 40 --train.batch 8 --train.sequence 64 --train.checkpoint-every 3";
    const args = ["branch", "--seed", "seed", "--output", output, ...`${data} ${train}`.split(" "), ...more];
    const child = spawn(process.execPath, [cli, ...args], {
      cwd: folder,
      stdio: ["ignore", "ignore", "pipe"],
      env: { ...process.env, ...env },
    });
    let errors = "";
    child.stderr.on("data", (chunk) => {
      errors += chunk;
    });
    const ended = once(child, "close").then(([code, signal]) => ({ end: (signal ?? code) as unknown, errors }));
    return { child, ended };
  };
  const branch = async (...args: Parameters<typeof start>) => {
    const { end, errors } = await start(...args).ended;
    expect(end, errors).toBe(0);
  };
  const at = (...names: string[]) => join(folder, ...names);
  const weights = (output: string, domain: string) => readFileSync(at(output, domain, "model.safetensors"));
  const states = async (output: string) =>
    Object.fromEntries((await branchStatus(at(`${output}-run`))).map(({ domain, state }) => [domain, state]));
  return { at, start, branch, weights, states };
}

/** Waits until a branch has done so many steps. */
async function reach(run: string, domain: string, step: number): Promise<void> {
  const done = () =>
    existsSync(join(run, domain, "metrics.jsonl")) &&
    readFileSync(join(run, domain, "metrics.jsonl"), "utf8").split("\n").length > step;
  while (!done()) await new Promise((resolve) => setTimeout(resolve, 3));
}

it("two at a time, by array index, or killed and resumed: the same weights as one after the other", async () => {
  const { at, start, branch, weights, states } = await workplace();
  await branch("whole");
  expect(await states("whole")).toEqual({ arithmetic: "done", prose: "done" });

  await branch("apart", ["--jobs", "2"]);
  for (const domain of ["arithmetic", "prose"])
    expect(weights("apart", domain).equals(weights("whole", domain)), domain).toBe(true);

  await branch("array", ["--array"], { SLURM_ARRAY_TASK_ID: "1" });
  expect(await states("array")).toEqual({ arithmetic: "waiting", prose: "done" });
  expect(weights("array", "prose").equals(weights("whole", "prose"))).toBe(true);

  const killed = start("killed", ["--only", "prose"]);
  await reach(at("killed-run"), "prose", 7);
  expect(await states("killed")).toEqual({ arithmetic: "waiting", prose: "running" });
  killed.child.kill("SIGKILL");
  expect((await killed.ended).end).toBe("SIGKILL");
  expect(await states("killed")).toEqual({ arithmetic: "waiting", prose: "dead" });
  const stopped = start("killed", ["--only", "prose", "--resume"]);
  await reach(at("killed-run"), "prose", 14);
  stopped.child.kill("SIGTERM");
  expect((await stopped.ended).end).toBe(143);
  expect(await states("killed")).toEqual({ arithmetic: "waiting", prose: "stopped" });
  await branch("killed", ["--jobs", "2", "--resume"]);
  expect(await states("killed")).toEqual({ arithmetic: "done", prose: "done" });
  for (const domain of ["arithmetic", "prose"])
    expect(weights("killed", domain).equals(weights("whole", domain)), domain).toBe(true);
}, 240_000);

it("passes one signal on to all, and says of each that fails why", async () => {
  const { at, start, states } = await workplace();
  const both = start("stopped", ["--jobs", "2", "--train.steps", "100000"]);
  for (const domain of ["arithmetic", "prose"]) await reach(at("stopped-run"), domain, 2);
  both.child.kill("SIGINT");
  expect((await both.ended).end).toBe(130);
  expect(await states("stopped")).toEqual({ arithmetic: "stopped", prose: "stopped" });

  const diverging = await start("failed", ["--jobs", "2", "--train.learning-rate", "1e30"]).ended;
  expect(diverging.end).toBe(1);
  expect(diverging.errors).toMatch(/2 of 2 branches failed: (arithmetic|prose) \(\w+ is NaN at step .*BTX_BRANCHES/s);
  for (const { state, reason } of await branchStatus(at("failed-run"))) {
    expect(state).toBe("failed");
    expect(reason).toContain("Lower the learning rate");
  }
}, 120_000);

it("a branch that fails leaves the others alone, and is trained again by itself", async () => {
  const folder = temporaryFolder();
  const seed = await writeCheckpoint(join(folder, "seed"), { seed: 3, config });
  const domains = await tinyDomains(folder);
  const shared = { seed, replay: 0, scope: "all" as const, settings: tinySettings };
  const options = { ...shared, output: join(folder, "out"), run: join(folder, "run"), resume: true };
  const [arithmetic, prose] = domains as [(typeof domains)[0], (typeof domains)[0]];
  const damaged = { ...arithmetic, train: TokenFile.open(arithmetic.train.path) };
  damaged.train.close();
  await expect(trainBranches({ ...options, domains: [damaged, prose] })).rejects.toMatchObject({
    code: "BTX_BRANCHES",
  });
  expect(await branchStatus(options.run)).toMatchObject([
    { domain: "arithmetic", state: "failed", reason: expect.any(String) },
    { domain: "prose", state: "done", step: tinySettings.steps, loss: expect.any(Number) },
  ]);
  const before = readFileSync(join(options.output, "prose/model.safetensors"));
  expect(await trainBranches({ ...options, domains })).toBe(true);
  expect((await branchStatus(options.run)).map(({ state }) => state)).toEqual(["done", "done"]);
  expect(readFileSync(join(options.output, "prose/model.safetensors")).equals(before)).toBe(true);
}, 60_000);

it("an array index is one domain, ranks take turns, anything else is refused", () => {
  const domains = ["code", "prose", "arithmetic"];
  const of = (env: NodeJS.ProcessEnv) => domainsOfArrayJob(domains, env);
  expect(of({ SLURM_ARRAY_TASK_ID: "2" })).toEqual(["arithmetic"]);
  expect(of({ JOB_COMPLETION_INDEX: "0" })).toEqual(["code"]);
  // Under srun inside of an array both may be set: the array index counts.
  expect(of({ SLURM_ARRAY_TASK_ID: "1", OMPI_COMM_WORLD_RANK: "0" })).toEqual(["prose"]);
  const rank = (r: number, size: number) => of({ OMPI_COMM_WORLD_RANK: `${r}`, OMPI_COMM_WORLD_SIZE: `${size}` });
  expect([rank(0, 2), rank(1, 2)]).toEqual([["code", "arithmetic"], ["prose"]]);
  expect([rank(2, 4), rank(3, 4)]).toEqual([["arithmetic"], []]);
  for (const env of [{}, { SLURM_ARRAY_TASK_ID: "3" }, { JOB_COMPLETION_INDEX: "-1" }, { SLURM_ARRAY_TASK_ID: "1,2" }])
    expect(() => of(env)).toThrow(expect.objectContaining({ code: "BTX_OPTIONS" }));
});

it("says that a directory has no branches", async () => {
  await expect(branchStatus("/nowhere")).rejects.toMatchObject({ code: "BTX_OPTIONS" });
  const run = temporaryFolder();
  writeFileSync(join(run, "branches.json"), '{"version":2}');
  await expect(branchStatus(run)).rejects.toMatchObject({
    code: "BTX_BRANCHES",
    message: expect.stringMatching(/branches\.json is not what this version writes \(output: .*\): begin/),
  });
});
