import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type MixOptions, mix } from "@trefoil/btx";
import { compile, loadModel, ModelFolder, saveModel, type Tensor } from "@trefoil/core";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { expectClose, fixturePath, readFixture } from "./fixture.js";

const { tensors, metadata } = await readFixture(fixturePath("mixtures.safetensors"));
const { rotation, layouts } = JSON.parse(metadata.fixture!);
const first = fixturePath("llama/gqa");

let scratch: string;
let second: string;
beforeAll(async () => {
  scratch = await mkdtemp(join(tmpdir(), "trefoil-mixtures-"));
  second = join(scratch, "second");
  await writeSecond(second);
});
afterAll(() => rm(scratch, { recursive: true, force: true }));

/** As `second` of mixtures.py: halved, hidden units rotated. */
async function writeSecond(path: string): Promise<void> {
  const { model, config } = await loadModel(first);
  const { hiddenSize: d, intermediateSize: f } = config;
  for (const [name, parameter] of model.namedParameters()) {
    const values = Float32Array.from((await parameter.data()) as Float32Array);
    const turned = values.slice();
    const from = (unit: number) => (unit - rotation + f) % f;
    if (name.endsWith("mlp.down_proj")) {
      for (let row = 0; row < d; row++) for (let u = 0; u < f; u++) turned[row * f + u] = values[row * f + from(u)]!;
    } else if (name.endsWith("mlp.gate_up_proj")) {
      for (let half = 0; half < 2; half++)
        for (let u = 0; u < f; u++) {
          const at = (half * f + from(u)) * d;
          turned.set(values.subarray(at, at + d), (half * f + u) * d);
        }
    }
    parameter.set(turned.map((value) => value / 2));
  }
  await saveModel(model, path, { config });
}

const cases: [string, number, NonNullable<MixOptions["arrange"]>][] = [
  ["whole", 1, { kind: "whole" }],
  ["whole", 2, { kind: "whole" }],
  ["split", 2, { kind: "split", chunks: 2 }],
  ["split", 3, { kind: "split", chunks: 2 }],
  ["blend", 2, { kind: "blend" }],
];

describe.each(["legacy", "fused"] as const)("a mixture of different experts in the %s layout", (layout) => {
  it.each(cases)("%s, top-%i: the logits of transformers", async (kind, k, arrange) => {
    const output = join(scratch, `${layout}-${kind}-${k}`);
    const rows = [0, 1].map(
      async (layer) => (await tensors.get(`${kind}.${k}.router.${layer}`)!.data()) as Float32Array,
    );
    const router = { kind: "given", layers: await Promise.all(rows) } as const;
    await mix({ experts: [first, second], output, arrange, expertsPerToken: k, layout, router });
    const { model } = await loadModel(output);
    const logits = await compile((tokens: Tensor) => model.logits(tokens))(tensors.get("input_ids")!);
    await expectClose("logits", logits, tensors.get(`${kind}.${k}.logits`)!, 1e-5);
  });

  it("has the names and shapes that transformers writes", async () => {
    await using folder = await ModelFolder.open(join(scratch, `${layout}-whole-2`));
    const found = Object.fromEntries([...folder.tensors].map(([name, { shape }]) => [name, shape]));
    expect(found).toEqual(layouts[layout]);
  });
});

// vLLM's MixtralForCausalLM stacks w1 and w3 of all experts into w13 and w2 into w2, by these parts of the names, and q, k and v
// into qkv; every other parameter has the name of its tensor.
it("fills every slot of vLLM's parameters once", async () => {
  await using folder = await ModelFolder.open(join(scratch, "legacy-whole-2"));
  const slots = new Set<string>();
  for (const name of folder.tensors.keys()) {
    const expert = /^(.*\.block_sparse_moe\.experts\.)(\d+)\.(w[123])\.weight$/.exec(name);
    const projection = /^(.*\.self_attn\.)([qkv])_proj\.weight$/.exec(name);
    const slot = expert
      ? `${expert[1]}${expert[3] === "w2" ? "w2" : "w13"}_weight[${expert[2]}].${expert[3]}`
      : projection
        ? `${projection[1]}qkv_proj.weight.${projection[2]}`
        : name;
    expect(slots.has(slot), slot).toBe(false);
    slots.add(slot);
  }
  const layer = (l: number) => [
    ...[0, 1].flatMap((e) =>
      [`w13_weight[${e}].w1`, `w13_weight[${e}].w3`, `w2_weight[${e}].w2`].map(
        (s) => `model.layers.${l}.block_sparse_moe.experts.${s}`,
      ),
    ),
    `model.layers.${l}.block_sparse_moe.gate.weight`,
    ...["q", "k", "v"].map((p) => `model.layers.${l}.self_attn.qkv_proj.weight.${p}`),
    `model.layers.${l}.self_attn.o_proj.weight`,
    `model.layers.${l}.input_layernorm.weight`,
    `model.layers.${l}.post_attention_layernorm.weight`,
  ];
  const wanted = ["model.embed_tokens.weight", "model.norm.weight", "lm_head.weight", ...layer(0), ...layer(1)];
  expect([...slots].sort()).toEqual(wanted.sort());
});
