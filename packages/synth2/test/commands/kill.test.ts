import { spawn } from "node:child_process";
import { existsSync, readdirSync, statSync } from "node:fs";
import { mkdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { expect, test } from "vitest";
import { encodePng } from "../../src/index.js";
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
  const continuous = [...stages.generator, "--kind", "continuous"];
  const language = ["--model.hidden-size", "32", "--model.layers", "1", "--model.intermediate-size", "32"];
  const looking = ["--model.width", "16", "--model.latents", "2", "--model.heads", "2"];
  const later = {
    continuous,
    language: ["language-model", ...data, ...language],
    vlm: ["vlm", ...data, "--tokenizer", at("tokenizer"), "--language-model", at("language"), ...looking],
  };
  for (const [stage, args] of Object.entries({ ...stages, ...later })) {
    const [whole, killed] = [at(stage), at(`killed-${stage}`)];
    expect(await run(args, whole), stage).toBe(0);
    expect(await run(args, killed, true), stage).toBe("SIGKILL");
    expect(existsSync(killed), stage).toBe(false);
    expect(await run([...args, "--resume"], killed), stage).toBe(0);
    const weights = (path: string) => readFile(join(path, "model.safetensors"));
    expect((await weights(killed)).equals(await weights(whole)), stage).toBe(true);
  }
}, 240_000);

test("captions killed with SIGKILL and asked for again are those of an uninterrupted run", async () => {
  const folder = await temporaryFolder();
  const at = (name: string) => join(folder, name);
  const model = ["--model.hidden-size", "32", "--model.layers", "1", "--model.intermediate-size", "32"];
  const data = ["--data", "small-world:paired:16"];
  expect(await run(["language-model", ...data, ...model], at("language"))).toBe(0);
  const write = (output: string, killAt = Number.POSITIVE_INFINITY): Promise<NodeJS.Signals | number | null> => {
    // An untrained model: nearly everything it says is kept.
    const filter = ["--count", "64", "--batch", "4", "--min-words", "1", "--max-words", "200", "--attempts", "100"];
    const args = ["captions", "--language-model", at("language"), ...filter, "--temperature", "2", "--output", output];
    const child = spawn(process.execPath, [cli, ...args], { stdio: "ignore" });
    const file = join(output, "captions.jsonl");
    const watch = setInterval(() => {
      if (existsSync(file) && statSync(file).size >= killAt) child.kill("SIGKILL");
    }, 1);
    return new Promise((resolve) => {
      child.on("close", (code, signal) => {
        clearInterval(watch);
        resolve(signal ?? code);
      });
    });
  };
  const text = (output: string) => readFile(join(output, "captions.jsonl"), "utf8");
  expect(await write(at("whole"))).toBe(0);
  const whole = await text(at("whole"));
  expect(whole.trimEnd().split("\n")).toHaveLength(64);
  expect(await write(at("killed"), 1)).toBe("SIGKILL");
  expect((await text(at("killed"))).length).toBeLessThan(whole.length);
  expect(await write(at("killed"), whole.length / 2)).toBe("SIGKILL");
  expect(await write(at("killed"))).toBe(0);
  expect(await text(at("killed"))).toBe(whole);
}, 240_000);

test("what prepare leaves when it is killed, the next run removes", async () => {
  const folder = await temporaryFolder();
  const photos = join(folder, "photos");
  await mkdir(photos);
  const png = await encodePng(new Uint8Array(64 * 64 * 3).fill(128), 64, 64);
  for (let i = 0; i < 200; i++) {
    await writeFile(join(photos, `${i}.png`), png);
    await writeFile(join(photos, `${i}.txt`), "a grey square");
  }
  const leftovers = () => readdirSync(folder).filter((name) => name.startsWith("."));
  const prepare = (kill: boolean): Promise<NodeJS.Signals | number | null> => {
    const args = ["prepare", "--source", photos, "--output", join(folder, "data"), "--size", "16"];
    const child = spawn(process.execPath, [cli, ...args], { stdio: "ignore" });
    const watch = setInterval(() => {
      const [begun] = leftovers();
      if (kill && begun && existsSync(join(folder, begun, "dataset"))) child.kill("SIGKILL");
    }, 1);
    return new Promise((resolve) => {
      child.on("close", (code, signal) => {
        clearInterval(watch);
        resolve(signal ?? code);
      });
    });
  };
  expect(await prepare(true)).toBe("SIGKILL");
  expect(existsSync(join(folder, "data"))).toBe(false);
  expect(leftovers()).toHaveLength(1);
  expect(await prepare(false)).toBe(0);
  expect(readdirSync(folder).sort()).toEqual(["data", "photos"]);
  expect(readdirSync(join(folder, "data"))).toHaveLength(4);
}, 60_000);
