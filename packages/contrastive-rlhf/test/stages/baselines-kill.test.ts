import { spawn } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout } from "node:timers/promises";
import { expect, test } from "vitest";
import { prompts, temporaryFolder, trainSmallPolicy } from "./small.js";

const cli = join(import.meta.dirname, "../../dist/cli.js");
const k = 4;

interface Line {
  prompt_sha: string;
  first: number;
  rewards: number[];
}

test("baselines: killed twice and resumed, the store is that of a run that was not, byte for byte", async () => {
  await using folder = await temporaryFolder();
  const at = (name: string) => join(folder.path, name);
  const policy = await trainSmallPolicy(folder.path);
  await writeFile(at("prompts.jsonl"), prompts.training.map((prompt) => `${JSON.stringify({ prompt })}\n`).join(""));
  // A pause between batches: the kill falls between the first and the last.
  await writeFile(
    at("reward.mjs"),
    `export default async (samples) => {
      await new Promise((resolve) => setTimeout(resolve, 20));
      return samples.map(({ responseText }) => new Set(responseText).size / 8);
    };\n`,
  );
  const files = ["--policy", policy, "--reward", at("reward.mjs"), "--prompts", at("prompts.jsonl")];
  const run = (store: string, batch = k) => {
    const sizes = ["--samples", `${k}`, "--batch", `${batch}`, "--sampler.max-new-tokens", "8", "--quiet"];
    const flags = ["baselines", ...files, "--store", at(store), ...sizes];
    const child = spawn(process.execPath, [cli, ...flags], { stdio: ["ignore", "ignore", "inherit"] });
    return { child, ended: new Promise<number | null>((resolve) => child.on("close", resolve)) };
  };
  const samples = (store: string) => join(at(store), "samples.jsonl");
  const text = (store: string) => (existsSync(samples(store)) ? readFileSync(samples(store), "utf8") : "");
  const whole = (store: string) => text(store).split("\n").length - 1;
  const killAt = async (store: string, lines: number, batch?: number) => {
    const { child, ended } = run(store, batch);
    while (whole(store) < lines && child.exitCode === null) await setTimeout(2);
    child.kill("SIGKILL");
    expect(await ended).toBe(null);
  };

  expect(await run("once").ended).toBe(0);
  expect(whole("once")).toBe(prompts.training.length);

  // A batch is one prompt's samples, so one line.
  await killAt("killed", 3);
  await killAt("killed", 10);
  const partial = whole("killed");
  expect(partial).toBeGreaterThanOrEqual(10);
  expect(partial).toBeLessThan(prompts.training.length);
  expect(await run("killed").ended).toBe(0);
  expect(text("killed")).toBe(text("once"));

  // Batches that cut through the samples of a prompt: the same samples in other lines, each once.
  await killAt("cut", 4, 6);
  expect(whole("cut")).toBeLessThan(prompts.training.length);
  expect(await run("cut", 5).ended).toBe(0);
  const rewards = (store: string) => {
    const known = new Map<string, number[]>();
    for (const line of text(store).trim().split("\n")) {
      const { prompt_sha: sha, first, rewards: some } = JSON.parse(line) as Line;
      const before = known.get(sha) ?? [];
      expect(first).toBe(before.length);
      known.set(sha, [...before, ...some]);
    }
    return known;
  };
  expect(rewards("cut")).toEqual(rewards("once"));
  for (const some of rewards("cut").values()) expect(some).toHaveLength(k);
}, 120_000);
