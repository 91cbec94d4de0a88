import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterEach, expect, it, vi } from "vitest";

const root = fileURLToPath(new URL("../..", import.meta.url));
const folders: string[] = [];

afterEach(async () => {
  await Promise.all(folders.splice(0).map((folder) => rm(folder, { recursive: true, force: true })));
});

/** The TypeScript blocks of a Markdown file. */
const examples = (markdown: string): string[] => [...markdown.matchAll(/```ts\n(.*?)```/gs)].map((match) => match[1]!);

it("trains the model of the core README as it is printed there", async () => {
  const [example] = examples(await readFile(join(root, "packages/core/README.md"), "utf8"));
  // Inside this package, so that the import resolves as it would for a user.
  const folder = await mkdtemp(fileURLToPath(new URL("readme-", import.meta.url)));
  folders.push(folder);
  await writeFile(join(folder, "example.ts"), example!);
  const lines: string[] = [];
  const log = vi.spyOn(console, "log").mockImplementation((line: string) => {
    lines.push(line);
  });
  try {
    await import(join(folder, "example.ts"));
  } finally {
    log.mockRestore();
  }
  const losses = lines.filter((line) => line.startsWith("step")).map((line) => Number(line.split("loss ")[1]));
  expect(losses).toHaveLength(5);
  expect(losses.at(-1)!).toBeLessThan(0.5 * losses[0]!);
  // Forty bytes of the sentence that it was trained on.
  expect("the quick brown fox jumps over the lazy dog. ".repeat(3)).toContain(lines.at(-1)!.slice(0, 12));
});
