import type { TableSection } from "../train/report/index.js";

const cellText = (value: string | number | null): string =>
  typeof value === "number" ? (Number.isInteger(value) ? String(value) : value.toFixed(3)) : (value ?? "–");

const textOf = ({ columns, rows }: TableSection): string[][] => [
  columns.map(({ label, unit }) => (unit === undefined ? label : `${label} (${unit})`)),
  ...rows.map((row) => row.map(cellText)),
];

/** A report's table for the terminal: the first column to the left, the rest to the right. */
export function terminalTable(section: TableSection): string {
  const cells = textOf(section);
  const widths = cells[0]!.map((_, i) => Math.max(...cells.map((row) => row[i]!.length)));
  const lines = cells.map((row) =>
    row
      .map((cell, i) => (i === 0 ? cell.padEnd(widths[i]!) : cell.padStart(widths[i]!)))
      .join("  ")
      .trimEnd(),
  );
  lines.splice(1, 0, widths.map((width) => "─".repeat(width)).join("  "));
  return `${lines.join("\n")}\n`;
}

/** A report's table as Markdown, under its title and caption. */
export function markdownTable(section: TableSection): string {
  const line = (cells: readonly string[]) => `| ${cells.join(" | ")} |`;
  const [head = [], ...rows] = textOf(section);
  const above = [section.title && `## ${section.title}`, section.caption].filter(Boolean).join("\n\n");
  return `${above}\n\n${[line(head), line(head.map(() => "---")), ...rows.map(line)].join("\n")}\n`;
}
