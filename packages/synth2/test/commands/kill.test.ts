import { spawn } from "node:child_process";
import { existsSync, readdirSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { expect, test } from "vitest";
import { temporaryFolder } from "../folder.js";

const cli = join(import.meta.dirname, "../../bin/synth2.js");
const steps = ["--train.steps", "12", "--train.batch", "4", "--train.checkpoint-every", "3"];

/** Runs a command; killed as soon as its run directory holds a checkpoint, where asked. */
function run(args: readonly string[], output: string, kill = false): Promise<NodeJS.Signals | number | null> {
  const child = spawn(process.execPath, [cli, ...args, ...steps, "--output", output], { stdio: "ignore" });
  const checkpoints = join(`${output}-run`, "checkpoints");
  const watch = setInterval(() => {
    if (kill && existsSync(checkpoints) && readdirSync(checkpoints).length > 0) child.kill("SIGKILL");
  }, 1);
  return new Promise((resolve) => {
    child.on("close", (code, signal) => {
      clearInterval(watch);
      resolve(signal ?? code);
    });
  });
}

test("training stages killed with SIGKILL and resumed end with the weights of an uninterrupted run", async () => {
  const folder = await temporaryFolder();
  const at = (name: string) => join(folder, name);
  const data = ["--data", "small-world:paired:16"];
  const model = ["--model.image-size", "18", "--model.patch-size", "3", "--model.channels", "8", "--model.codes", "4"];
  const stages = {
    tokenizer: ["tokenizer", ...data, ...model, "--model.structure-codes", "8"],
    generator: [
      ...["generator", ...data, "--tokenizer", at("tokenizer"), "--model.width", "16", "--model.layers", "1"],
      ...[
        "--model.heads",
        "2",
        "--model.feed-forward",
        "16",
        "--model.text-width",
        "8",
        "--model.max-text-tokens",
        "48",
      ],
    ],
  };
  for (const [stage, args] of Object.entries(stages)) {
    const [whole, killed] = [at(stage), at(`killed-${stage}`)];
    expect(await run(args, whole), stage).toBe(0);
    expect(await run(args, killed, true), stage).toBe("SIGKILL");
    expect(existsSync(killed), stage).toBe(false);
    expect(await run([...args, "--resume"], killed), stage).toBe(0);
    const weights = (path: string) => readFile(join(path, "model.safetensors"));
    expect((await weights(killed)).equals(await weights(whole)), stage).toBe(true);
  }
}, 60_000);
