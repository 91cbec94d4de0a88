import { readFile } from "node:fs/promises";
import { join, resolve } from "node:path";
import { expect, test } from "vitest";

const source = join(import.meta.dirname, "../src");

/** Every file that a file imports from this package, directly or not. */
async function importsOf(file: string, seen = new Set<string>()): Promise<Set<string>> {
  if (seen.has(file)) return seen;
  seen.add(file);
  for (const [, specifier] of (await readFile(file, "utf8")).matchAll(/(?:from|import)\s*\(?\s*"(\.[^"]+)"/g)) {
    await importsOf(resolve(file, "..", specifier!.replace(/\.js$/, ".ts")), seen);
  }
  return seen;
}

test("no training code can import the true quality of the built-in task", async () => {
  const training = await importsOf(join(source, "stages/index.ts"));
  expect(training.size).toBeGreaterThan(25);
  expect([...training].filter((file) => file.includes("/task/") || file.includes("/quickstart/"))).toEqual([]);
  // The search does find it where it is imported.
  expect(
    [...(await importsOf(join(source, "quickstart/index.ts")))].some((file) => file.endsWith("task/gold.ts")),
  ).toBe(true);
});
