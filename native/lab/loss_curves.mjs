// node native/lab/loss_curves.mjs [--device cuda] [--steps 20] [--tiny]
// The first steps of every recipe's training on the CPU, and on a device in f32 and in bf16: prints one JSON object with the curves, the
// largest relative difference in f32, and how far bf16 ends from f32. --tiny: models small enough for the emulator of the tests.
// Ends with 1 where a curve is not within the bounds (1e-3 in f32, 1 % at the end in bf16). Needs the built packages.
import { spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { openDevice } from "./bench_models.mjs";

const { values } = parseArgs({
  options: {
    device: { type: "string", default: "cuda" },
    steps: { type: "string", default: "20" },
    tiny: { type: "boolean", default: false },
  },
});
// A device that is not there is named before the CPU has trained for minutes.
openDevice(values.device);
const bounds = { f32: 1e-3, bf16: 1e-2 };
const packages = fileURLToPath(new URL("../../packages/", import.meta.url));
const folder = mkdtempSync(join(tmpdir(), "trefoil-curves-"));

function run(recipe, device, precision, args) {
  const result = spawnSync(process.execPath, [join(packages, recipe, "dist", "cli.js"), ...args, "--quiet"], {
    cwd: folder,
    encoding: "utf8",
    env: { ...process.env, TREFOIL_DEVICE: device, TREFOIL_PRECISION: precision },
  });
  if (result.status !== 0)
    throw new Error(`${recipe} ${args[0]} on ${device} failed: ${result.stderr.trim().split("\n").at(-1)}`);
}

function curve(runFolder) {
  const lines = readFileSync(join(folder, runFolder, "metrics.jsonl"), "utf8")
    .trim()
    .split("\n");
  return lines
    .map((line) => JSON.parse(line))
    .filter(({ kind }) => kind === "train")
    .map(({ loss }) => loss);
}

const train = (batch) => ["--train.steps", values.steps, "--train.batch", String(batch), "--train.warmup-steps", "5"];
const llama = (prefix, layers) => [
  ...[
    `--${prefix}.hidden-size`,
    values.tiny ? "16" : "192",
    `--${prefix}.intermediate-size`,
    values.tiny ? "32" : "512",
  ],
  ...[`--${prefix}.layers`, String(values.tiny ? 1 : layers), `--${prefix}.heads`, values.tiny ? "2" : "6"],
  ...[`--${prefix}.key-value-heads`, values.tiny ? "1" : "6"],
];
const text = [
  ...["--data.domains.arithmetic", "@arithmetic", "--data.max-bytes", "200000", "--data.cache", "text"],
  ...["--train.sequence", values.tiny ? "16" : "256"],
];
const batch = values.tiny ? 2 : 16;
writeFileSync(
  join(folder, "demonstrations.jsonl"),
  Array.from(
    { length: 200 },
    (_, i) => `${JSON.stringify({ prompt: `${i} + ${i % 7} =`, completion: ` ${i + (i % 7)}` })}\n`,
  ).join(""),
);

// What all curves of a recipe start from is made on the CPU.
const recipes = {
  btx: {
    prepare() {
      run("btx", "cpu", "f32", ["seed", "--output", "seed", ...llama("model", 4), ...text, ...train(batch)]);
      run("btx", "cpu", "f32", [
        "upcycle",
        "--model",
        "seed",
        "--output",
        "mixture",
        "--experts",
        "4",
        "--noise",
        "0.1",
      ]);
    },
    args: ["finetune", "--model", "mixture", ...text, ...train(batch)],
  },
  "contrastive-rlhf": {
    args: ["sft", "--data", "demonstrations.jsonl", ...llama("new", 3), ...train(batch), "--train.max-length", "64"],
  },
  synth2: {
    args: ["tokenizer", "--data", `world:paired:${values.tiny ? 16 : 256}`, ...train(batch)],
  },
};

const result = { device: values.device, steps: Number(values.steps), recipes: {} };
let within = true;
try {
  for (const [recipe, { prepare, args }] of Object.entries(recipes)) {
    prepare?.();
    const measure = (name, device, precision) => {
      run(recipe, device, precision, [...args, "--output", `${recipe}-${name}`]);
      return curve(`${recipe}-${name}-run`);
    };
    const cpu = measure("cpu", "cpu", "f32");
    const f32 = measure("f32", values.device, "f32");
    const bf16 = measure("bf16", values.device, "bf16");
    const difference = Math.max(...cpu.map((loss, step) => Math.abs(f32[step] - loss) / Math.abs(loss)));
    const end = Math.abs(bf16.at(-1) - f32.at(-1)) / Math.abs(f32.at(-1));
    // Written so that a NaN is not within.
    const good = cpu.length === result.steps && difference < bounds.f32 && end < bounds.bf16;
    within &&= good;
    result.recipes[recipe] = {
      within: good,
      f32_largest_difference: difference,
      bf16_end_difference: end,
      cpu,
      f32,
      bf16,
    };
  }
} finally {
  rmSync(folder, { recursive: true, force: true });
}
process.stdout.write(`${JSON.stringify(result)}\n`);
process.exitCode = within ? 0 : 1;
