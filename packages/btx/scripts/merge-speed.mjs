// Measures `mix` on four checkpoints of random weights beside `cp` of the folder it wrote, in turns, both until everything is on disk;
// and its peak memory. The first two lines are aims: at least 0.9 of cp's rate where nothing is averaged, 0.6 with averages.
// --mergekit times mergekit-moe on the same folders too; its recipe follows mergekit's documentation, and has not been run with it.
// Needs an otherwise idle machine, and free disk of eleven times --gigabytes.
//   node scripts/merge-speed.mjs [--gigabytes 2] [--rounds 5] [--dtype F32] [--folder where] [--mergekit path of mergekit-moe]
import { spawnSync } from "node:child_process";
import { randomFillSync } from "node:crypto";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { encodeFloats, llamaConfigJson, ModelFolderWriter } from "@trefoil/core";

const { values: flags } = parseArgs({
  options: {
    gigabytes: { type: "string", default: "2" },
    rounds: { type: "string", default: "5" },
    dtype: { type: "string", default: "F32" },
    folder: { type: "string" },
    mergekit: { type: "string" },
  },
});
const dtypes = { F32: "float32", BF16: "bfloat16" };
const bytesPerElement = { F32: 4, BF16: 2 }[flags.dtype];
const size = { vocabSize: 32_000, hiddenSize: 1024, intermediateSize: 2816 };

function config(layers) {
  const rest = { rmsNormEps: 1e-5, ropeTheta: 1e4, tieWordEmbeddings: false, maxPositions: 2048, eosTokenIds: [2] };
  return {
    family: "llama",
    ...size,
    layers,
    heads: 16,
    keyValueHeads: 16,
    headDim: 64,
    initializerRange: 0.02,
    ...rest,
  };
}

function shapes(layers) {
  const { vocabSize, hiddenSize: d, intermediateSize: f } = size;
  const all = [
    ["model.embed_tokens.weight", [vocabSize, d]],
    ["model.norm.weight", [d]],
    ["lm_head.weight", [vocabSize, d]],
  ];
  for (let layer = 0; layer < layers; layer++) {
    const prefix = `model.layers.${layer}`;
    for (const name of ["q", "k", "v", "o"]) all.push([`${prefix}.self_attn.${name}_proj.weight`, [d, d]]);
    for (const name of ["gate", "up"]) all.push([`${prefix}.mlp.${name}_proj.weight`, [f, d]]);
    all.push([`${prefix}.mlp.down_proj.weight`, [d, f]]);
    for (const name of ["input", "post_attention"]) all.push([`${prefix}.${name}_layernorm.weight`, [d]]);
  }
  return all;
}
const bytesOf = (shape) => bytesPerElement * shape.reduce((a, b) => a * b, 1);
const total = (layers) => shapes(layers).reduce((sum, [, shape]) => sum + bytesOf(shape), 0);
const layers = Math.max(1, Math.round((Number(flags.gigabytes) * 1e9 - total(0)) / (total(1) - total(0))));

/** Random floats in (-0.06, 0.06): a block of them, written again and again. */
async function writeCheckpoint(path) {
  const block = new Float32Array(1 << 20);
  const bits = new Uint32Array(block.buffer);
  randomFillSync(bits);
  const bytes = encodeFloats(
    flags.dtype,
    Float32Array.from(bits, (value) => (value / 2 ** 32 - 0.5) * 0.12),
  );
  const declarations = shapes(layers).map(([name, shape]) => ({ name, shape, dtype: flags.dtype }));
  const writer = await ModelFolderWriter.create(path, declarations);
  for (const { name, shape } of declarations)
    for (let at = 0; at < bytesOf(shape); at += bytes.length)
      await writer.write(name, bytes.subarray(0, Math.min(bytes.length, bytesOf(shape) - at)));
  await writer.writeFile("config.json", llamaConfigJson(config(layers), dtypes[flags.dtype]));
  await writer.finish();
}

/** Runs a command to its end. @returns what it printed */
function run(command, args) {
  const { stdout, stderr, status, error } = spawnSync(command, args, { cwd: import.meta.dirname, encoding: "utf8" });
  if (status !== 0) throw error ?? new Error(stderr);
  return stdout;
}

/** Seconds until the command has ended and its output is on disk. */
function timed(command, args, output) {
  rmSync(output, { recursive: true, force: true });
  run("sync", ["-f", folder]);
  const began = performance.now();
  const printed = run(command, args);
  run("sync", ["-f", output]);
  return { seconds: (performance.now() - began) / 1000, printed };
}

/** `mix` in a process of its own. @returns seconds inside it, and what it held of memory at most */
function mixed(experts, output, weights) {
  const script = `
    import { mix } from "@trefoil/btx";
    const [began, before] = [performance.now(), process.cpuUsage()];
    const { bytes } = await mix(${JSON.stringify({ experts, output, ...(weights && { weights }) })});
    const seconds = (performance.now() - began) / 1000;
    const { user, system } = process.cpuUsage(before);
    const peak = process.resourceUsage().maxRSS * 1024;
    console.log(JSON.stringify({ bytes, seconds, cpu: (user + system) / 1e6, peak }));`;
  return JSON.parse(timed(process.execPath, ["--input-type=module", "-e", script], output).printed);
}

const median = (values) => values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)];
const spread = (values) =>
  `${median(values).toFixed(2)} (${Math.min(...values).toFixed(2)} to ${Math.max(...values).toFixed(2)})`;
const mega = (value) => `${(value / 1e6).toFixed(0)} MB`;

const folder = mkdtempSync(join(flags.folder ?? tmpdir(), "btx-merge-"));
try {
  const experts = ["a", "b", "c", "d"].map((name) => join(folder, name));
  for (const path of experts) await writeCheckpoint(path);
  const [output, copy, kit] = ["mixture", "copy", "mergekit"].map((name) => join(folder, name));
  const recipe = join(folder, "mergekit.yml");
  const listed = experts.map((path) => `  - source_model: ${path}\n    positive_prompts: ["a"]\n`).join("");
  writeFileSync(
    recipe,
    `base_model: ${experts[0]}\ngate_mode: random\ndtype: ${dtypes[flags.dtype]}\nexperts:\n${listed}`,
  );
  const sides = {
    first: () => mixed(experts, output, [1, 0, 0, 0]),
    average: () => mixed(experts, output),
    ...(flags.mergekit && { mergekit: () => timed(flags.mergekit, [recipe, kit], kit) }),
    // Last in the first round: it copies what `mix` wrote.
    cp: () => timed("cp", ["-r", output, copy], copy),
  };
  const names = Object.keys(sides);
  const results = Object.fromEntries(names.map((name) => [name, []]));
  for (let round = 0; round < Number(flags.rounds); round++) {
    for (let i = 0; i < names.length; i++) {
      const name = names[(i + round) % names.length];
      results[name].push(sides[name]());
    }
    const took = names.map((name) => `${name} ${results[name].at(-1).seconds.toFixed(2)} s`);
    console.log(`round ${round + 1}: ${took.join(", ")}`);
  }
  const ratios = (name, to) => spread(results[to].map(({ seconds }, i) => seconds / results[name][i].seconds));
  const { bytes } = results.average[0];
  const largest = Math.max(...shapes(layers).map(([, shape]) => bytesOf(shape)));
  const limit = 3 * largest + 200e6;
  const peak = Math.max(...[...results.first, ...results.average].map((result) => result.peak));
  console.log(`four checkpoints of ${mega(total(layers))}, ${flags.dtype}, into ${mega(bytes)}`);
  console.log(`nothing averaged (weights 1, 0, 0, 0): ${ratios("first", "cp")} × the rate of cp, aim 0.9`);
  console.log(`uniform average: ${ratios("average", "cp")} × the rate of cp, aim 0.6`);
  if (flags.mergekit)
    console.log(`uniform average: ${ratios("average", "mergekit")} × the rate of mergekit-moe, aim 2`);
  const gigabytes = bytes / 1e9;
  const cpu = median(results.average.map((result) => result.cpu));
  console.log(
    `mix ${(gigabytes / median(results.average.map(({ seconds }) => seconds))).toFixed(2)} GB/s written, ${(cpu / gigabytes).toFixed(2)} CPU seconds per GB; cp ${(gigabytes / median(results.cp.map(({ seconds }) => seconds))).toFixed(2)} GB/s`,
  );
  console.log(`peak memory ${mega(peak)}; three times the largest tensor and 200 MB are ${mega(limit)}`);
  process.exitCode = peak <= limit ? 0 : 1;
} finally {
  rmSync(folder, { recursive: true, force: true });
}
