// Measures the peak memory of `mix` on four checkpoints of about 1 GB each, made of random weights, and its time beside that
// of copying the folder it wrote with `cp`, both until everything is on disk.
//   node scripts/mix-memory.mjs [folder for 12 GB of files; default: a temporary one]
import { spawnSync } from "node:child_process";
import { randomFillSync } from "node:crypto";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { llamaConfigJson, ModelFolderWriter } from "@trefoil/core";

const config = {
  family: "llama",
  vocabSize: 32_000,
  hiddenSize: 1024,
  intermediateSize: 2816,
  layers: 14,
  heads: 16,
  keyValueHeads: 16,
  headDim: 64,
  rmsNormEps: 1e-5,
  ropeTheta: 1e4,
  tieWordEmbeddings: false,
  maxPositions: 2048,
  eosTokenIds: [2],
  initializerRange: 0.02,
};

function shapes() {
  const { vocabSize, hiddenSize: d, intermediateSize: f, layers } = config;
  const all = {
    "model.embed_tokens.weight": [vocabSize, d],
    "model.norm.weight": [d],
    "lm_head.weight": [vocabSize, d],
  };
  for (let layer = 0; layer < layers; layer++) {
    for (const name of ["q", "k", "v", "o"]) all[`model.layers.${layer}.self_attn.${name}_proj.weight`] = [d, d];
    for (const name of ["gate", "up"]) all[`model.layers.${layer}.mlp.${name}_proj.weight`] = [f, d];
    all[`model.layers.${layer}.mlp.down_proj.weight`] = [d, f];
    for (const name of ["input", "post_attention"]) all[`model.layers.${layer}.${name}_layernorm.weight`] = [d];
  }
  return Object.entries(all);
}

/** Random floats in (-0.06, 0.06): a block of them, written again and again. */
async function writeCheckpoint(path) {
  const block = new Float32Array(1 << 20);
  const bits = new Uint32Array(block.buffer);
  randomFillSync(bits);
  for (let i = 0; i < block.length; i++) block[i] = (bits[i] / 2 ** 32 - 0.5) * 0.12;
  const bytes = new Uint8Array(block.buffer);
  const declarations = shapes().map(([name, shape]) => ({ name, shape, dtype: "F32" }));
  const writer = await ModelFolderWriter.create(path, declarations);
  for (const { name, shape } of declarations) {
    const size = 4 * shape.reduce((a, b) => a * b, 1);
    for (let at = 0; at < size; at += bytes.length)
      await writer.write(name, bytes.subarray(0, Math.min(bytes.length, size - at)));
  }
  await writer.writeFile("config.json", llamaConfigJson(config, "float32"));
  await writer.finish();
}

const given = process.argv[2];
const folder = given ?? mkdtempSync(join(tmpdir(), "btx-memory-"));
try {
  const experts = ["a", "b", "c", "d"].map((name) => join(folder, name));
  for (const path of experts) await writeCheckpoint(path);
  const script = `
    import { mix } from "@trefoil/btx";
    const began = performance.now();
    const { bytes } = await mix({ experts: ${JSON.stringify(experts)}, output: ${JSON.stringify(join(folder, "mixture"))} });
    console.log(JSON.stringify({ bytes, seconds: (performance.now() - began) / 1000, peak: process.resourceUsage().maxRSS * 1024 }));`;
  const { stdout, stderr, status } = spawnSync(process.execPath, ["--input-type=module", "-e", script], {
    cwd: import.meta.dirname,
    encoding: "utf8",
  });
  if (status !== 0) throw new Error(stderr);
  const { bytes, seconds, peak } = JSON.parse(stdout);
  const began = performance.now();
  const copy = spawnSync("sh", [
    "-c",
    'cp -r "$1" "$2" && sync -f "$2"',
    "sh",
    join(folder, "mixture"),
    join(folder, "copy"),
  ]);
  if (copy.status !== 0) throw new Error(String(copy.stderr));
  const copying = (performance.now() - began) / 1000;
  const largest = Math.max(...shapes().map(([, shape]) => 4 * shape.reduce((a, b) => a * b, 1)));
  const limit = 3 * largest + 200e6;
  const mega = (value) => `${(value / 1e6).toFixed(0)} MB`;
  console.log(
    `wrote ${mega(bytes)} in ${seconds.toFixed(1)} s, cp took ${copying.toFixed(1)} s (${(copying / seconds).toFixed(2)} of cp's rate); peak memory ${mega(peak)}, largest tensor ${mega(largest)}, limit ${mega(limit)}`,
  );
  process.exitCode = peak <= limit ? 0 : 1;
} finally {
  for (const name of ["a", "b", "c", "d", "mixture", "copy"])
    rmSync(join(folder, name), { recursive: true, force: true });
  if (given === undefined) rmSync(folder, { recursive: true, force: true });
}
