import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { endBatch, loadScoreModel, type ScoreModel, saveRewardModel } from "@trefoil/contrastive-rlhf";
import { compile, type Tensor, tensor } from "@trefoil/core";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { expectClose, fixturePath, readFixture } from "./fixture.js";

/** Made by reward_model.py. */
const theirs = fixturePath("reward-model");

describe("LlamaForSequenceClassification of transformers", async () => {
  const { tensors } = await readFixture(join(theirs, "expected.safetensors"));
  const ids = (await tensors.get("input_ids")!.data()) as Int32Array;
  const lengths = (await tensors.get("lengths")!.data()) as Int32Array;
  const scores = tensors.get("scores")!;
  const rows = Array.from(lengths, (length, i) => ids.slice(i * 12, i * 12 + length));
  let loaded: Awaited<ReturnType<typeof loadScoreModel>>;
  let scratch: string;
  beforeAll(async () => {
    loaded = await loadScoreModel(theirs);
    scratch = await mkdtemp(join(tmpdir(), "trefoil-conformance-"));
  });
  afterAll(async () => {
    loaded.model[Symbol.dispose]();
    await rm(scratch, { recursive: true, force: true });
  });

  const padded = async (model: ScoreModel): Promise<Tensor> => {
    const run = compile((tokens: Tensor, at: Tensor) => model.scoresAt(tokens, at));
    return await run(
      tensor(ids, { shape: [rows.length, 12] }),
      tensor(lengths.map((length, i) => i * 12 + length - 1)),
    );
  };

  it("gives the same scores here, of padded rows and of beginnings computed once", async () => {
    await expectClose("padded", await padded(loaded.model), scores, 1e-5);
    const episodes = rows.map((row) => ({ prompt: row.slice(0, 1), response: row.slice(1) }));
    const run = compile((batch: ReturnType<typeof endBatch>) => loaded.model.scores(batch));
    await expectClose("shared", await run(endBatch(episodes)), scores, 1e-5);
  });

  it("is what is written here: the same tensors, byte for byte, and all that its configuration says", async () => {
    const folder = join(scratch, "reward");
    const { model, config } = loaded;
    await saveRewardModel(model, folder, { config, gain: 1, bias: 0, tokenizerFrom: theirs });
    const [own, other] = [
      await readFixture(join(folder, "model.safetensors")),
      await readFixture(join(theirs, "model.safetensors")),
    ];
    expect([...own.tensors.keys()].sort()).toEqual([...other.tensors.keys()].sort());
    expect(own.tensors.has("score.weight")).toBe(true);
    for (const [name, value] of own.tensors) {
      expect(value.shape, name).toEqual(other.tensors.get(name)!.shape);
      expect(await value.data(), name).toEqual(await other.tensors.get(name)!.data());
    }
    const json = async (path: string) =>
      JSON.parse(await readFile(join(path, "config.json"), "utf8")) as Record<string, unknown>;
    const [written, expected] = [await json(folder), await json(theirs)];
    for (const name of [
      ...["architectures", "model_type", "id2label", "label2id", "pad_token_id", "bos_token_id", "eos_token_id"],
      ...["vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"],
      ...["num_key_value_heads", "max_position_embeddings", "rms_norm_eps", "tie_word_embeddings", "hidden_act"],
    ])
      expect(written[name], name).toEqual(expected[name]);
    const again = await loadScoreModel(folder);
    await expectClose("written and read", await padded(again.model), scores, 1e-5);
    again.model[Symbol.dispose]();
    // A gain goes into the head, where transformers finds it; a bias does not.
    const scaled = join(scratch, "scaled");
    await saveRewardModel(model, scaled, { config, gain: 2, bias: 3, tokenizerFrom: theirs });
    const reloaded = await loadScoreModel(scaled);
    expect(reloaded.bias).toBe(3);
    const doubled = tensor(Float32Array.from(await scores.data(), (score) => 2 * score));
    await expectClose("scaled", await padded(reloaded.model), doubled, 1e-5);
    reloaded.model[Symbol.dispose]();
  });
});
