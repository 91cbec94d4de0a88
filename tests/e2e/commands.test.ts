import { execFile } from "node:child_process";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { expect, it } from "vitest";

const root = fileURLToPath(new URL("../..", import.meta.url));
const readme = await readFile(join(root, "README.md"), "utf8");

/** Lines of the shell blocks, without comments. */
const commands = [...readme.matchAll(/```sh\n(.*?)```/gs)]
  .flatMap((match) => match[1]!.split("\n"))
  .map((line) => line.replace(/#.*/, "").trim())
  .filter((line) => line !== "");

// What starts everything else is what runs this test (npm test), or runs for minutes and is built of commands tested in its package; what
// tarballs hold, and what installing them runs, is in setup/tarballs.test.ts.
const elsewhere = /^(git clone|npm start|npm test|npm run tarballs|npm install .*tarballs)/;

it.each(commands.filter((line) => !elsewhere.test(line)))("README: %s", async (line) => {
  const [npx, name, ...flags] = line.split(/\s+/);
  expect(npx).toBe("npx");
  const { stdout } = await promisify(execFile)(join(root, "node_modules", ".bin", name!), flags, { cwd: root });
  expect(stdout).toContain(name);
  expect(stdout).toContain("Usage");
});

it("leaves no command out", () => {
  expect(commands.length).toBeGreaterThan(4);
  expect(commands).toContain("npm test");
});
