import { spawn } from "node:child_process";
import { readFileSync } from "node:fs";
import { mkdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { readMetricsFile } from "@trefoil/core";
import { expect, test } from "vitest";
import { temporaryFolder } from "../stages/small.js";

const cli = join(import.meta.dirname, "../../bin/contrastive-rlhf.js");
const readme = readFileSync(join(import.meta.dirname, "../../README.md"), "utf8");

/** The command lines of the README, without `npm start`: commands.test.ts has the quickstart in small. */
const lines = [...readme.matchAll(/```sh\n([\s\S]*?)```/g)]
  .flatMap(([, block]) => block!.replaceAll("\\\n", " ").split("\n"))
  .map((line) => line.trim())
  .filter((line) => line !== "" && !line.startsWith("npm start"));

/** Sizes for a test, for what each command takes. */
const short = "--train.steps 4 --train.batch 2";
const small: Record<string, string> = {
  sft: short,
  reward: `${short} --held-out 0.5`,
  baselines: "--sampler.max-new-tokens 6",
  ppo: "--iterations 1 --prompts-per-iteration 4 --minibatch 2 --max-new-tokens 6 --no-alarms.enabled",
  dpo: short,
  evaluate: "--sampler.max-new-tokens 6",
  chat: "--max-new-tokens 4",
  reproduce:
    "--workers 1 --seeds 2 --offsets 0,1 --flips 0.2 --samples 2 --headline 2 --showcase-seeds 0 --prompts 16 --few-prompts 8 --held-out-prompts 4 --iterations 1 --sft-steps 10 --reward-steps 2 --dpo-steps 2",
};

async function run(
  folder: string,
  args: readonly string[],
  input = "",
): Promise<{ code: number | null; errors: string }> {
  const child = spawn(process.execPath, [cli, ...args], { cwd: folder, stdio: "pipe" });
  let errors = "";
  child.stdout.resume();
  child.stderr.on("data", (text) => {
    errors += text;
  });
  child.stdin.end(input);
  return { code: await new Promise((resolve) => child.on("close", resolve)), errors };
}

test("runs every command of the README, in its order", async () => {
  await using temporary = await temporaryFolder();
  const folder = temporary.path;
  const words = ["red", "green", "blue", "cyan"];
  const write = (name: string, row: (word: string) => object) =>
    writeFile(join(folder, name), words.map((word) => `${JSON.stringify(row(word))}\n`).join(""));
  await write("demonstrations.jsonl", (word) => ({ prompt: `say ${word}: `, completion: word }));
  await write("preferences.jsonl", (word) => ({ prompt: `say ${word}: `, chosen: word, rejected: "no" }));
  await write("prompts.jsonl", (word) => ({ prompt: `say ${word}: ` }));
  await write("heldout.jsonl", (word) => ({ prompt: `say ${word}: ` }));
  await mkdir(join(folder, "models"));
  const sizes =
    "--new.hidden-size 16 --new.intermediate-size 32 --new.layers 1 --new.heads 2 --new.key-value-heads 2 --new.max-positions 32";
  const base = `sft --data demonstrations.jsonl --output models/base ${sizes} ${short}`;
  expect(await run(folder, base.split(" "))).toMatchObject({ code: 0 });

  const [, module] = /```js\n(\/\/ short\.mjs\n[\s\S]*?)```/.exec(readme)!;
  await writeFile(join(folder, "short.mjs"), module!);
  expect([...new Set(lines.map((line) => line.split(" ")[1]))]).toEqual(Object.keys(small));
  for (const line of lines) {
    const [name, command, ...rest] = line.split(/\s+/);
    expect(name).toBe("contrastive-rlhf");
    const { code, errors } = await run(folder, [command!, ...rest, ...small[command!]!.split(" ")], "say red: \n");
    expect(code, `${line}\n${errors}`).toBe(0);
  }
  for (const run of ["runs/reproduce", "runs/small"]) {
    expect(await readFile(join(folder, run, "report.html"), "utf8")).toContain("Contrastive rewards: when they help");
    const summary = await readFile(join(folder, run, "summary.md"), "utf8");
    expect(summary).toMatch(/^All arms of 2 seeds\.\n\n## Claims\n/);
    expect(summary).toMatch(/\| Contrast must give the same weights, .* \| holds \| 2 of 2 seeds /);
    expect(summary).toMatch(/\n\| offset 1, 16 prompts \| contrast k=2 \| 2 \|/);
  }
  const [first] = await readMetricsFile(join(folder, "models/mixed-run/metrics.jsonl"));
  const {
    "rewards/models/reward/mean": model,
    "rewards/short.mjs/mean": length,
    "objective/scores": sum,
  } = first!.values;
  expect(Math.abs(sum! - (model! + 0.5 * length!))).toBeLessThan(1e-6);
}, 180_000);
