// node native/lab/loss_curves.mjs [--device cuda] [--steps 20] [--tiny]
// The first steps of each training of the recipes (but PPO, whose losses hang on what was sampled) on the CPU, and on a device in f32 and
// in bf16. Prints one JSON object, a line to a training as it ends: the curves, the largest relative difference in f32, and how far bf16
// ends from f32. --tiny: models small enough for the emulator of the tests. Ends with 1 where a training fails, or its curve is not
// within the bounds (1e-3 in f32, 1 % at the end in bf16). Needs the built packages.
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
const lines = (name, row) =>
  writeFileSync(join(folder, name), Array.from({ length: 200 }, (_, i) => `${JSON.stringify(row(i))}\n`).join(""));
lines("demonstrations.jsonl", (i) => ({ prompt: `${i} + ${i % 7} =`, completion: ` ${i + (i % 7)}` }));
lines("preferences.jsonl", (i) => ({
  prompt: `${i} + ${i % 7} =`,
  chosen: ` ${i + (i % 7)}`,
  rejected: ` ${i + (i % 7) + 1}`,
}));
lines("prompts.jsonl", (i) => ({ prompt: `${i} + ${i % 7} =` }));

const policy = [...llama("new", 3), ...train(batch), "--train.max-length", "64"];
const pictures = ["--data", `world:paired:${values.tiny ? 16 : 256}`, ...train(batch)];
const size = (prefix, small, large) =>
  Object.entries(values.tiny ? small : large).flatMap(([flag, value]) => [`--${prefix}.${flag}`, String(value)]);
const generator = [
  ...["generator", ...pictures, "--tokenizer", "tokenizer", "--model.max-text-tokens", "64"],
  ...size(
    "model",
    { width: 16, layers: 1, heads: 2, "feed-forward": 16, "text-width": 8 },
    { width: 192, layers: 3, heads: 6 },
  ),
];
const languageModel = [
  ...["language-model", ...pictures],
  ...size("model", { "hidden-size": 32, layers: 1, "intermediate-size": 32 }, { "hidden-size": 192, layers: 3 }),
];

// What all curves start from is made on the CPU. Stages of one recipe use what those before it have made.
const stages = {
  btx: {
    recipe: "btx",
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
  "contrastive-rlhf": { recipe: "contrastive-rlhf", args: ["sft", "--data", "demonstrations.jsonl", ...policy] },
  reward: {
    recipe: "contrastive-rlhf",
    prepare: () =>
      run("contrastive-rlhf", "cpu", "f32", ["sft", "--data", "demonstrations.jsonl", "--output", "policy", ...policy]),
    args: ["reward", "--model", "policy", "--data", "preferences.jsonl", ...train(batch)],
  },
  dpo: {
    recipe: "contrastive-rlhf",
    args: ["dpo", "--policy", "policy", "--data", "preferences.jsonl", ...train(batch)],
  },
  synth2: { recipe: "synth2", args: ["tokenizer", ...pictures] },
  generator: {
    recipe: "synth2",
    prepare: () => run("synth2", "cpu", "f32", ["tokenizer", ...pictures, "--output", "tokenizer"]),
    args: generator,
  },
  embeddings: { recipe: "synth2", args: [...generator, "--kind", "continuous"] },
  "language-model": { recipe: "synth2", args: languageModel },
  vlm: {
    recipe: "synth2",
    prepare: () => run("synth2", "cpu", "f32", [...languageModel, "--output", "language"]),
    args: [
      ...["vlm", ...pictures, "--tokenizer", "tokenizer", "--language-model", "language"],
      ...size("model", { width: 16, latents: 2, heads: 2 }, {}),
    ],
  },
};

function compare(stage, { recipe, prepare, args }) {
  prepare?.();
  const measure = (name, device, precision) => {
    run(recipe, device, precision, [...args, "--output", `${stage}-${name}`]);
    return curve(`${stage}-${name}-run`);
  };
  const cpu = measure("cpu", "cpu", "f32");
  const f32 = measure("f32", values.device, "f32");
  const bf16 = measure("bf16", values.device, "bf16");
  const difference = Math.max(...cpu.map((loss, step) => Math.abs(f32[step] - loss) / Math.abs(loss)));
  const end = Math.abs(bf16.at(-1) - f32.at(-1)) / Math.abs(f32.at(-1));
  // Written so that a NaN is not within.
  const within = cpu.length === Number(values.steps) && difference < bounds.f32 && end < bounds.bf16;
  return { stage, within, f32_largest_difference: difference, bf16_end_difference: end, cpu, f32, bf16 };
}

let within = true;
let separator = "";
process.stdout.write(`{"device": ${JSON.stringify(values.device)}, "steps": ${Number(values.steps)}, "lines": [\n`);
try {
  for (const [stage, training] of Object.entries(stages)) {
    let line;
    try {
      line = compare(stage, training);
    } catch (error) {
      line = { stage, within: false, error: String(error) };
    }
    within &&= line.within;
    process.stdout.write(`${separator}  ${JSON.stringify(line)}`);
    separator = ",\n";
  }
} finally {
  rmSync(folder, { recursive: true, force: true });
}
process.stdout.write("\n]}\n");
process.exitCode = within ? 0 : 1;
