import { cp, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { expect, test } from "vitest";
import { chat } from "../../src/index.js";
import { temporaryFolder, trainSmallPolicy } from "./small.js";

test("a conversation goes on with a chat template, and starts afresh without one", async () => {
  await using folder = await temporaryFolder();
  const plain = await trainSmallPolicy(folder.path, 150);
  const options = { temperature: 0, topP: 1, maxNewTokens: 4, seed: 0 };
  using alone = await chat({ policy: plain, ...options });
  const told: string[] = [];
  const first = await alone.reply("abcd=", { onText: (text) => told.push(text) });
  expect(first.length).toBeGreaterThan(0);
  expect(told.join("")).toBe(first);
  // Every text is a prompt of its own: the same one has the same greedy answer, and any number fits.
  for (let i = 0; i < 3; i++) expect(await alone.reply("abcd=")).toBe(first);

  const templated = join(folder.path, "templated");
  await cp(plain, templated, { recursive: true });
  await writeFile(join(templated, "chat_template.jinja"), "{% for m in messages %}{{ m.content }}={% endfor %}");
  using conversation = await chat({ policy: templated, ...options });
  expect(await conversation.reply("abcd")).toBe(first);
  // The context holds 16 tokens: with what was said the next turn does not fit, after a reset it does.
  await expect(conversation.reply("abcdefgh")).rejects.toThrow(/exceeds the model's context of 16/);
  conversation.reset();
  expect(await conversation.reply("abcd")).toBe(first);
}, 60_000);
