import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { expect, test } from "vitest";
import { loadRewardFunction } from "../../src/index.js";
import { hashModule } from "../../src/stages/module-hash.js";
import { temporaryFolder } from "./small.js";

test("a reward function's hash is that of all files it imports by a path, wherever they are", async () => {
  await using folder = await temporaryFolder();
  const files = {
    "reward.mjs": `import { rate } from "./parts/rate.mjs"; import "./parts/%C3%A9t%C3%A9%201.mjs"; // from "./nothing.mjs"
      export default async (samples) => samples.map(({ responseText }) => rate(responseText));`,
    "parts/rate.mjs": `import { createRequire } from "node:module"; export { limit } from "../limit.mjs";
      const { step } = createRequire(import.meta.url)("./step.cjs");
      export const rate = (text) => text.length * step;`,
    "parts/été 1.mjs": "export {};",
    "parts/step.cjs": "exports.step = require('./number').step;",
    "parts/number.js": "exports.step = 1;",
    "limit.mjs": `export * from "./reward.mjs"; export const limit = (await import("./lazy.mjs")).default;`,
    "lazy.mjs": "export default 3;",
  };
  const write = async (root: string, changed?: keyof typeof files): Promise<string> => {
    await mkdir(join(folder.path, root, "parts"), { recursive: true });
    for (const [name, text] of Object.entries(files))
      await writeFile(join(folder.path, root, name), name === changed ? `${text}\n` : text);
    return await hashModule(join(folder.path, root, "reward.mjs"));
  };
  const hash = await write("first");
  expect(await write("other")).toBe(hash);
  // `require` of a function that is not called so is not seen: the file behind it neither.
  const unseen = new Set(["parts/step.cjs", "parts/number.js"]);
  for (const name of Object.keys(files) as (keyof typeof files)[])
    expect([name, (await write("changed", name)) === hash]).toEqual([name, unseen.has(name)]);
  const plain = join(folder.path, "plain.cjs");
  await writeFile(plain, `module.exports = (samples) => samples.map(() => require("./first/parts/number").step);`);
  const before = await loadRewardFunction(plain);
  await writeFile(join(folder.path, "first/parts/number.js"), "exports.step = 2;");
  expect((await loadRewardFunction(plain)).hash).not.toBe(before.hash);
});
