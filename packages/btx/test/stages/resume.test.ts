import { spawn } from "node:child_process";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { expect, it } from "vitest";
import { temporaryFolder } from "../checkpoints.js";

const cli = fileURLToPath(new URL("../../dist/cli.js", import.meta.url));
const steps = 40;

async function btx(cwd: string, args: readonly string[], whenStep?: number): Promise<NodeJS.Signals | null> {
  const child = spawn(process.execPath, [cli, ...args], { cwd, stdio: ["ignore", "ignore", "pipe"] });
  let errors = "";
  child.stderr.on("data", (chunk) => {
    errors += chunk;
  });
  const metrics = join(cwd, "seed-run/metrics.jsonl");
  const timer = setInterval(() => {
    const lines = whenStep === undefined ? 0 : readLines(metrics);
    if (whenStep !== undefined && lines >= whenStep) child.kill("SIGKILL");
  }, 2);
  const [code, signal] = (await once(child, "exit")) as [number | null, NodeJS.Signals | null];
  clearInterval(timer);
  if (signal === null && code !== 0) throw new Error(errors);
  return signal;
}

function readLines(path: string): number {
  try {
    return readFileSync(path, "utf8").split("\n").length - 1;
  } catch {
    return 0;
  }
}

it("killed at random steps and resumed, a run ends with the same weights, bit for bit", async () => {
  const folder = temporaryFolder();
  const sizes = [
    "hidden-size",
    "16",
    "intermediate-size",
    "24",
    "layers",
    "2",
    "heads",
    "2",
    "key-value-heads",
    "2",
    "max-positions",
    "64",
  ];
  const model = sizes.flatMap((word, i) => (i % 2 === 0 ? [`--model.${word}`, sizes[i + 1]!] : []));
  const data = ["--data.max-bytes", "60000", "--data.cache", join(folder, "data")];
  const train = [
    "--train.steps",
    String(steps),
    "--train.batch",
    "8",
    "--train.sequence",
    "64",
    "--train.checkpoint-every",
    "3",
  ];
  const seed = ["seed", "--output", "seed", ...model, ...data, ...train];

  const [whole, killed] = [join(folder, "whole"), join(folder, "killed")];
  for (const path of [whole, killed]) await import("node:fs/promises").then(({ mkdir }) => mkdir(path));
  expect(await btx(whole, seed)).toBe(null);
  let kills = 0;
  let atLeast = 0;
  for (let attempt = 0; attempt < 3; attempt++) {
    atLeast += 1 + Math.floor(Math.random() * (steps / 4));
    if ((await btx(killed, attempt === 0 ? seed : [...seed, "--resume"], atLeast)) === "SIGKILL") kills++;
    else break;
  }
  expect(kills).toBeGreaterThan(0);
  if (kills === 3) expect(await btx(killed, [...seed, "--resume"])).toBe(null);
  const weights = (path: string) => readFileSync(join(path, "seed/model.safetensors"));
  expect(weights(killed).equals(weights(whole))).toBe(true);
  // The metrics, too, tell of one run: each step once, with the same losses.
  const losses = (path: string) =>
    readFileSync(join(path, "seed-run/metrics.jsonl"), "utf8")
      .trimEnd()
      .split("\n")
      .map((line) => {
        const { step, loss, gradNorm, learningRate } = JSON.parse(line);
        return { step, loss, gradNorm, learningRate };
      });
  expect(losses(killed)).toEqual(losses(whole));
}, 180_000);
