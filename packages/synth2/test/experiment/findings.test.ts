import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { expect, it } from "vitest";
import { markdownSummary, reproduceSections, resultsTables } from "../../src/commands/reproduce-report.js";
import { type ExperimentSettings, findings, readResults, seenScenes, summarise } from "../../src/experiment/index.js";

const root = join(import.meta.dirname, "../..");
const results = join(root, "results/reproduce");

it("the tables of the findings are those of the rows by seed that are kept", async () => {
  const settings = JSON.parse(await readFile(join(results, "settings.json"), "utf8")) as ExperimentSettings;
  const rows = await readResults(results);
  expect(new Set(rows.map(({ seed }) => seed)).size).toBe(settings.seeds);
  const given = { rows, arms: summarise(rows), findings: findings(rows), settings, completed: true };
  const tableOf = (text: string) => text.split("\n").filter((line) => line.startsWith("|"));
  const made = tableOf(markdownSummary({ ...given, seen: seenScenes(settings) }));
  expect(made.length).toBeGreaterThan(30);
  const page = await readFile(join(root, "../../docs/synth2-experiment.md"), "utf8");
  expect(tableOf(page.slice(page.indexOf("\n## Results\n")))).toEqual(made);
});

it("whatever is there of the results when a run is stopped has its tables", async () => {
  const settings = JSON.parse(await readFile(join(results, "settings.json"), "utf8")) as ExperimentSettings;
  const all = await readResults(results);
  const seen = seenScenes(settings);
  for (let count = 0; count < 12; count++) {
    const rows = all.slice(0, count);
    const given = { rows, arms: summarise(rows), findings: findings(rows), settings, completed: false, seen };
    expect(resultsTables(given)).toContain("balanced");
    expect(markdownSummary(given)).toMatch(/^Not complete/);
    for (const section of await reproduceSections(given))
      if (section.kind === "table") for (const row of section.rows) expect(row).toHaveLength(section.columns.length);
  }
}, 60_000);
