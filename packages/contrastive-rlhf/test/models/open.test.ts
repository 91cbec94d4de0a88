import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { makeTokenizer, tokenizerFiles } from "@trefoil/core";
import { expect, test } from "vitest";
import { hashModelFolder, taskTokenizer } from "../../src/index.js";
import { temporaryFolder, trainSmallPolicy } from "../stages/small.js";

test("a model's hash is that of the tokens that begin and end its texts, too", async () => {
  await using folder = await temporaryFolder();
  const policy = await trainSmallPolicy(folder.path, 1);
  const { definition, config } = taskTokenizer();
  for (const [name, content] of Object.entries(tokenizerFiles(makeTokenizer(definition, config))))
    await writeFile(join(policy, name), JSON.stringify(content));
  const hashWith = async (more: object): Promise<string> => {
    await writeFile(join(policy, "tokenizer_config.json"), JSON.stringify({ ...config, ...more }));
    return await hashModelFolder(policy);
  };
  const hash = await hashWith({});
  expect(await hashWith({ model_max_length: 7 })).toBe(hash);
  // Responses would end elsewhere, and prompts begin otherwise.
  expect(await hashWith({ eos_token: config.bos_token })).not.toBe(hash);
  expect(await hashWith({ bos_token: null })).not.toBe(hash);
});
