import { join } from "node:path";
import { readMetricsFile } from "@trefoil/core";
import { expect, test } from "vitest";
import { baselines, EpisodeEncoder, evaluate, ppo, sft } from "../../src/index.js";
import { letterReward, ppoSettings, sampler, temporaryFolder, tokenizer, training } from "./small.js";

/** More rows, and more tokens, than a call may have arguments: Anthropic's HH has 160,000 pairs. */
const many = 200_000;

const sizes = { hiddenSize: 16, intermediateSize: 32, layers: 1, heads: 2, keyValueHeads: 1, maxPositions: 16 };

test("more rows than a call may have arguments", async () => {
  await using folder = await temporaryFolder();
  const at = (name: string) => join(folder.path, name);
  const row = (line: number) => ({ line, prompt: `${line % 50}=`, templated: false, row: {} });
  const rows = Array.from({ length: many }, (_, i) => row(i + 1));
  const demonstrations = rows.map((each) => ({ ...each, completion: "ab" }));
  const policy = at("sft");
  const settings = training(1);
  const shared = { trainOnPrompts: false, settings, output: policy, run: at("sft-run") };
  expect(await sft({ from: { tokenizer, ...sizes }, demonstrations, ...shared })).toBe(true);
  const tuning = ppoSettings({ iterations: 1 });
  const scored = { rewards: letterReward, prompts: rows };
  expect(await ppo({ policy, ...scored, settings: tuning, output: at("ppo"), run: at("ppo-run") })).toBe(true);
  expect(await readMetricsFile(join(at("ppo-run"), "metrics.jsonl"))).toHaveLength(1);
  const sampled = { ...scored, samples: 1, sampler: { ...sampler, maxNewTokens: 2 }, batch: 64 };
  expect(await baselines({ policy, ...sampled, store: at("store") })).toMatchObject({ prompts: 50 });
  const few = { prompts: rows.slice(0, 50), samples: many / 50, sampler: { ...sampler, maxNewTokens: 1 }, batch: 2048 };
  const { all } = await evaluate({ policy, against: policy, by: { rewards: letterReward }, ...few });
  expect(all).toMatchObject({ win: 0, tie: many, lose: 0 });
}, 240_000);

test("more tokens in a text than a call may have arguments", () => {
  const encoder = new EpisodeEncoder(tokenizer, [257], 16);
  const text = { line: 1, prompt: "a", templated: false, row: {}, completion: "b".repeat(many) };
  const { prompt, response } = encoder.demonstration(text);
  expect(prompt.length + response.length).toBe(16);
  expect(encoder.truncated).toBe(1);
  expect(() => encoder.prompt({ ...text, prompt: text.completion })).toThrow(/200001 tokens/);
  // All rows that do not fit are named at once, as malformed ones are.
  const long = Array.from({ length: 25 }, (_, i) => ({ ...text, line: i + 1, prompt: "too long, all of it" }));
  for (const refused of [() => encoder.prompts([text, ...long], 1), () => encoder.demonstrations([text, ...long])])
    expect(refused).toThrow(/^row 1: the prompt has 20 tokens.*\n(row .*\n){19}and 5 more rows$/);
  const pairs = long.map((row) => ({ ...row, chosen: "a", rejected: "b", margin: undefined }));
  expect(() => encoder.preferences(pairs)).toThrow(/\nand 5 more rows$/);
});
