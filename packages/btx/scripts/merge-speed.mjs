// Measures `mix` on four checkpoints of random weights beside `cp -r` of the folder it wrote, in turns, and its peak memory.
// `mix` ends when its output is on disk (fsync) and read back. `cp` leaves it in the page cache; so it is measured three times in one
// go: cp, cp && sync, and cp && sync && diff, which does what mix does. Aims: at least 0.9 of the rate of cp where nothing is averaged,
// 0.6 with averages. Inputs are in the page cache where memory holds them; Node's start is not counted (printed apart).
// --mergekit times mergekit-moe on the same folders too; its recipe follows mergekit's documentation, and has not been run with it.
// Needs an otherwise idle machine, and free disk of eleven times --gigabytes.
//   node scripts/merge-speed.mjs [--gigabytes 2] [--vocabulary 32000] [--rounds 5] [--dtype F32] [--folder where]
//     [--mergekit path of mergekit-moe]
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
    vocabulary: { type: "string", default: "32000" },
    rounds: { type: "string", default: "5" },
    dtype: { type: "string", default: "F32" },
    folder: { type: "string" },
    mergekit: { type: "string" },
  },
});
const dtypes = { F32: "float32", BF16: "bfloat16" };
const bytesPerElement = { F32: 4, BF16: 2 }[flags.dtype];
const size = { vocabSize: Number(flags.vocabulary), hiddenSize: 1024, intermediateSize: 2816 };

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

/**
 * Starts from no output, a disk with nothing to do, and memory that the machine has: a virtual one may have given free memory back,
 * and gets it anew from its host at a price that is neither mix's nor cp's.
 */
function clear(output) {
  rmSync(output, { recursive: true, force: true });
  run("sync", ["-f", folder]);
  const parts = Math.ceil((1.1 * 3 * total(layers)) / 2 ** 28);
  run(process.execPath, ["-e", `globalThis.held = Array.from({ length: ${parts} }, () => Buffer.alloc(2 ** 28, 1))`]);
}

/** Seconds until the command has ended and its output is on disk. */
function timed(command, args, output) {
  clear(output);
  const began = performance.now();
  const printed = run(command, args);
  run("sync", ["-f", output]);
  return { seconds: (performance.now() - began) / 1000, printed };
}

/** `cp -r`, then sync, then diff: seconds from the beginning to the end of each, and their CPU seconds without the disk's. */
function copied(from, to) {
  clear(to);
  const script = `TIMEFORMAT='%U %S'; time cp -r "$0" "$1"; date +%s%N; time sync -f "$1"; date +%s%N; time diff -r "$0" "$1"; date +%s%N`;
  const began = BigInt(run("date", ["+%s%N"]));
  const lines = run("bash", ["-c", `{ ${script}; } 2>&1`, from, to])
    .trim()
    .split("\n");
  const at = (line) => Number(BigInt(lines[line]) - began) / 1e9;
  const cpu = (line) => lines[line].split(" ").reduce((sum, value) => sum + Number(value), 0);
  return { cp: at(1), synced: at(3), compared: at(5), cpu: [cpu(0), cpu(0) + cpu(2), cpu(0) + cpu(2) + cpu(4)] };
}

/** `mix` in a process of its own. @returns seconds inside it, and what it held of memory at most */
function mixed(experts, output, weights) {
  const script = `
    import { mix } from "@trefoil/btx";
    const [began, before] = [performance.now(), process.cpuUsage()];
    const start = began / 1000;
    const { bytes } = await mix(${JSON.stringify({ experts, output, ...(weights && { weights }) })});
    const seconds = (performance.now() - began) / 1000;
    const { user, system } = process.cpuUsage(before);
    const peak = process.resourceUsage().maxRSS * 1024;
    console.log(JSON.stringify({ bytes, seconds, start, cpu: (user + system) / 1e6, peak }));`;
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
    cp: () => copied(output, copy),
  };
  const names = Object.keys(sides);
  const results = Object.fromEntries(names.map((name) => [name, []]));
  for (let round = 0; round < Number(flags.rounds); round++) {
    for (let i = 0; i < names.length; i++) {
      const name = names[(i + round) % names.length];
      results[name].push(sides[name]());
    }
    const last = (name) => results[name].at(-1);
    const { cp, synced, compared } = last("cp");
    const took = names.filter((name) => name !== "cp").map((name) => `${name} ${last(name).seconds.toFixed(2)} s`);
    const peers = `cp ${cp.toFixed(2)} s, until synced ${synced.toFixed(2)} s, until compared ${compared.toFixed(2)} s`;
    console.log(`round ${round + 1}: ${took.join(", ")}; ${peers}`);
  }
  const ratios = (name, until) => spread(results.cp.map((peer, i) => peer[until] / results[name][i].seconds));
  const { bytes } = results.average[0];
  const gigabytes = bytes / 1e9;
  const largest = Math.max(...shapes(layers).map(([, shape]) => bytesOf(shape)));
  const limit = 3 * largest + 200e6;
  const peak = Math.max(...[...results.first, ...results.average].map((result) => result.peak));
  console.log(`four checkpoints of ${mega(total(layers))}, ${flags.dtype}, into ${mega(bytes)}; × the rate of`);
  for (const [until, peer] of [
    ["cp", "cp, into the page cache"],
    ["synced", "cp && sync"],
    ["compared", "cp && sync && diff"],
  ])
    console.log(`  ${peer}: nothing averaged ${ratios("first", until)}, uniform average ${ratios("average", until)}`);
  if (flags.mergekit) {
    const kits = results.mergekit.map(({ seconds }, i) => seconds / results.average[i].seconds);
    console.log(`  mergekit-moe: uniform average ${spread(kits)}, aim 2`);
  }
  const middle = (name, read) => (median(results[name].map(read)) / gigabytes).toFixed(2);
  const cpu = [0, 1, 2].map((step) => middle("cp", (result) => result.cpu[step]));
  console.log(
    `CPU seconds per GB written: nothing averaged ${middle("first", (result) => result.cpu)}, uniform average ${middle("average", (result) => result.cpu)}; cp ${cpu[0]}, with sync ${cpu[1]}, with diff ${cpu[2]}`,
  );
  console.log(
    `before mix begins, Node takes ${median(results.average.map(({ start }) => start)).toFixed(2)} s to start and load`,
  );
  console.log(`peak memory ${mega(peak)}; three times the largest tensor and 200 MB are ${mega(limit)}`);
  process.exitCode = peak <= limit ? 0 : 1;
} finally {
  rmSync(folder, { recursive: true, force: true });
}
