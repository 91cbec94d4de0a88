import type { TableColumn, TableSection } from "./sections.js";

/** A report's table, or one that is only shown as text. */
export interface TextTable extends Pick<TableSection, "title" | "caption" | "rows"> {
  readonly columns: readonly (string | TableColumn)[];
}

const cellText = (value: string | number | null): string =>
  typeof value === "number" ? (Number.isInteger(value) ? String(value) : value.toFixed(3)) : (value ?? "–");

const headText = (column: string | TableColumn): string =>
  typeof column === "string" ? column : column.unit === undefined ? column.label : `${column.label} (${column.unit})`;

const textOf = ({ columns, rows }: TextTable): string[][] => [
  columns.map(headText),
  ...rows.map((row) => row.map(cellText)),
];

/** A table for the terminal, without title and caption. @param names columns to the left; the rest go to the right */
export function terminalTable(table: TextTable, names = 1): string {
  const cells = textOf(table);
  const widths = cells[0]!.map((_, i) => Math.max(...cells.map((row) => row[i]!.length)));
  const lines = cells.map((row) =>
    row
      .map((cell, i) => (i < names ? cell.padEnd(widths[i]!) : cell.padStart(widths[i]!)))
      .join("  ")
      .trimEnd(),
  );
  lines.splice(1, 0, widths.map((width) => "─".repeat(width)).join("  "));
  return `${lines.join("\n")}\n`;
}

/** A table as Markdown, under its title and caption; no line feed at the end. */
export function markdownTable(table: TextTable): string {
  const line = (cells: readonly string[]) => `| ${cells.join(" | ")} |`;
  const [head = [], ...rows] = textOf(table);
  const lines = [line(head), line(head.map(() => "---")), ...rows.map(line)].join("\n");
  return [table.title && `## ${table.title}`, table.caption, lines].filter(Boolean).join("\n\n");
}
