import { spawn } from "node:child_process";
import { existsSync } from "node:fs";
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { checkpointSteps } from "@trefoil/core";
import { afterAll, beforeAll, expect, test } from "vitest";
import { hashModelFolder } from "../../src/index.js";
import { prompts, temporaryFolder, trainSmallPolicy } from "./small.js";

const cli = join(import.meta.dirname, "../../dist/cli.js");
let folder: Awaited<ReturnType<typeof temporaryFolder>>;
let sources: Record<"sft" | "reward" | "dpo", string[]>;
const at = (name: string) => join(folder.path, name);

beforeAll(async () => {
  folder = await temporaryFolder();
  const policy = await trainSmallPolicy(folder.path);
  const rows = prompts.training.map((prompt) => ({
    prompt,
    chosen: prompt.slice(0, 4),
    rejected: "kk",
    rejected_ended: false,
  }));
  const data = at("rows.jsonl");
  await writeFile(data, rows.map((row) => `${JSON.stringify(row)}\n`).join(""));
  sources = {
    sft: ["--model", policy, "--data", data],
    reward: ["--model", policy, "--data", data],
    dpo: ["--policy", policy, "--data", data],
  };
}, 60_000);
afterAll(async () => await folder[Symbol.asyncDispose]());

test.each(["sft", "reward", "dpo"] as const)(
  "%s: killed in the middle and resumed, the weights are the same",
  async (stage) => {
    const run = (name: string, more: string[] = []) => {
      const train = ["--train.steps", "60", "--train.batch", "4", "--train.checkpoint-every", "3"];
      const flags = [stage, ...sources[stage], "--output", at(name), ...train, "--quiet", ...more];
      const child = spawn(process.execPath, [cli, ...flags], { stdio: ["ignore", "ignore", "inherit"] });
      return { child, ended: new Promise<number | null>((resolve) => child.on("close", resolve)) };
    };
    const [once, twice] = [`${stage}-once`, `${stage}-twice`];
    expect(await run(once).ended).toBe(0);
    const victim = run(twice);
    const last = async () => (await checkpointSteps(at(`${twice}-run`))).at(-1) ?? 0;
    while ((await last()) < 6 && victim.child.exitCode === null) await new Promise((resolve) => setTimeout(resolve, 2));
    victim.child.kill("SIGKILL");
    expect(await victim.ended).toBe(null);
    expect(await last()).toBeLessThan(60);
    expect(existsSync(at(twice))).toBe(false);
    expect(await run(twice, ["--resume"]).ended).toBe(0);
    expect(await hashModelFolder(at(twice))).toBe(await hashModelFolder(at(once)));
  },
  60_000,
);
