import { join } from "node:path";
import { compile, loadTokenizer, readJsonFile, type Tensor, tensor } from "@trefoil/core";
import { describe, expect, test } from "vitest";
import {
  gold,
  loadModelReward,
  mean,
  OpenRewardModel,
  respond,
  reward,
  type ScoredSample,
  taskPreferences,
} from "../../src/index.js";
import { sampler, temporaryFolder, texts, tokenizer, training, trainSmallPolicy } from "./small.js";

describe("reward model", () => {
  test("learns preferences; scores do not depend on padding; its folder is a sequence classifier", async () => {
    await using folder = await temporaryFolder();
    const policy = await trainSmallPolicy(folder.path, 60);
    const responses = await respond(policy, { prompts: texts, samples: 24, sampler, batch: 64 });
    const side = ({ responseText: text, ended }: ScoredSample) => ({ text, ended });
    const pairs = Array.from({ length: responses.length / 2 }, (_, i) => {
      const [a, b] = [responses[2 * i]!, responses[2 * i + 1]!];
      return { prompt: a.promptText, responses: [side(a), side(b)] as const };
    });
    const output = join(folder.path, "reward");
    const preferences = taskPreferences(pairs, 8, 0, 1);
    const settings = training(150, { batch: 32 });
    const result = await reward({
      from: policy,
      preferences,
      heldOut: 0,
      centre: 0,
      normalise: "mean-std",
      settings,
      output,
      run: `${output}-run`,
    });
    // Even so small a model orders its own training pairs better than chance.
    expect(result.heldOut!.accuracy).toBeGreaterThan(0.6);

    const scorer = await loadModelReward(output, tokenizer, 4);
    const samples = responses.slice(0, 24);
    const scores = await scorer.score(samples);
    for (const [i, sample] of samples.entries()) {
      const [alone] = await scorer.score([sample]);
      expect(Math.abs(alone! - scores[i]!)).toBeLessThan(1e-5);
    }
    // Rows of the same batch, padded to the longest of them.
    const shortest = [...samples].sort((a, b) => a.response.length - b.response.length);
    const again = await scorer.score(shortest);
    shortest.forEach((sample, i) => {
      expect(Math.abs(again[i]! - scores[samples.indexOf(sample)]!)).toBeLessThan(1e-5);
    });
    scorer[Symbol.dispose]?.();
    await expectPaddingIgnored(output, samples, scores);

    // Normalised over the data's responses.
    const texted = preferences.flatMap(({ chosen, rejected }) => [chosen, rejected]);
    expect(texted.length).toBeGreaterThan(100);
    const config = (await readJsonFile(output, "config.json")) as Record<string, unknown>;
    expect(config).toMatchObject({
      architectures: ["LlamaForSequenceClassification"],
      id2label: { "0": "LABEL_0" },
      pad_token_id: 256,
    });
    expect((await loadTokenizer(output)).hash).toBe(tokenizer.hash);
    await expect(OpenRewardModel.open(policy)).rejects.toThrow(/no "score.weight"/);
    expect(mean(responses.map((r) => gold(r.promptText, r.responseText, r.ended)))).toBeLessThan(2.5);
  });
});

/** The score at the last real token, whatever stands before or behind it. */
async function expectPaddingIgnored(
  path: string,
  samples: readonly ScoredSample[],
  scores: readonly number[],
): Promise<void> {
  using opened = await OpenRewardModel.open(path);
  const rows = samples.map(({ prompt, response }) => [...prompt, ...response]);
  const width = 16;
  const padding = 7;
  const i32 = (values: readonly number[], shape: number[]) => tensor(Int32Array.from(values), { shape });
  const score = compile((tokens: Tensor, index: Tensor, segments: Tensor | undefined) =>
    opened.model.scoresAt(tokens, index, segments ? { segments } : {}),
  );
  const batch = async (left: boolean, separated: boolean) => {
    const pad = ({ length }: readonly number[], value: number) => new Array<number>(width - length).fill(value);
    const tokens = rows.flatMap((row) => (left ? [...pad(row, padding), ...row] : [...row, ...pad(row, padding)]));
    const segments = rows.flatMap((row) => [...pad(row, 0), ...row.map(() => 1)]);
    const last = rows.map((row, i) => i * width + (left ? width : row.length) - 1);
    const shape = [rows.length, width];
    const run = score(i32(tokens, shape), i32(last, [rows.length]), separated ? i32(segments, shape) : undefined);
    return Array.from(await (await run).data(), (value) => value + opened.bias);
  };
  const alone = await Promise.all(
    rows.map(
      async (row) =>
        (await (await score(i32(row, [1, row.length]), i32([row.length - 1], [1]), undefined)).data())[0]! +
        opened.bias,
    ),
  );
  const farthest = (some: readonly number[]) => Math.max(...some.map((value, i) => Math.abs(value - alone[i]!)));
  // Rounding: sums over positions in another order.
  expect(farthest(scores)).toBeLessThan(1e-5);
  expect(farthest(await batch(false, false))).toBeLessThan(1e-5);
  expect(farthest(await batch(true, true))).toBeLessThan(1e-5);
  // Attention to the padding would show.
  expect(farthest(await batch(true, false))).toBeGreaterThan(1e-3);
}
