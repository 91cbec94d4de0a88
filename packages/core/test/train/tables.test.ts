import { expect, it } from "vitest";
import { markdownTable, terminalTable } from "../../src/train/index.js";

const columns = ["arm", { label: "loss", unit: "nats" }, "steps"];
const rows = [
  ["dense", 1.23456, 20],
  ["a mixture", null, 3],
] as const;

it("writes a table for the terminal: names to the left, numbers to the right", () => {
  expect(terminalTable({ columns, rows })).toBe(
    [
      "arm        loss (nats)  steps",
      "─────────  ───────────  ─────",
      "dense            1.235     20",
      "a mixture            –      3\n",
    ].join("\n"),
  );
  expect(terminalTable({ columns: ["a", "name", "is"], rows: [["x", "y", "on"]] }, 2).split("\n")[2]).toBe(
    "x  y     on",
  );
});

it("writes a table as Markdown, under what title and caption it has", () => {
  const lines = [
    "| arm | loss (nats) | steps |",
    "| --- | --- | --- |",
    "| dense | 1.235 | 20 |",
    "| a mixture | – | 3 |",
  ];
  const table = { columns, rows };
  expect(markdownTable(table)).toBe(lines.join("\n"));
  expect(markdownTable({ ...table, title: "Arms", caption: "Lower is better." })).toBe(
    `## Arms\n\nLower is better.\n\n${lines.join("\n")}`,
  );
});
