import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { expect, it } from "vitest";
import { reproduceMarkdown } from "../../src/commands/reproduce-markdown.js";
import { type ExperimentSettings, findings, isComplete, readResults, summarise } from "../../src/experiment/index.js";

const root = join(import.meta.dirname, "../..");
const results = join(root, "results/reproduce");

it("the tables of the findings are those of the rows by seed that are kept", async () => {
  const settings = JSON.parse(await readFile(join(results, "settings.json"), "utf8")) as ExperimentSettings;
  const rows = await readResults(results);
  const completed = isComplete(rows, settings);
  expect(completed).toBe(true);
  const arms = summarise(rows, settings);
  const text = reproduceMarkdown({ arms, findings: findings(rows, settings), settings, completed });
  const page = await readFile(join(root, "../../docs/btx-experiment.md"), "utf8");
  expect(page.slice(page.indexOf("\n---\n") + 5).trim()).toBe(text.trim());
});
