import { FULL_WIDTH, HALF_WIDTH, round, svg, truncate } from "./chart.js";
import { html, Markup } from "./markup.js";
import { extent, formatValue } from "./scales.js";
import type { HeatmapSection } from "./sections.js";

const CELL_HEIGHT = 28;
const LABEL_PIXELS = 6.4;
const PANEL_GAP = 28;

/** Small multiples of one matrix each, on one colour scale. */
export function renderHeatmap(section: HeatmapSection): Markup {
  const { rows, columns, panels, value } = section;
  const range = section.range ?? extent(panels.flatMap((panel) => panel.values.flat()));
  if (range === undefined) return html`<p class="empty">No finite values to draw.</p>`;
  const colours = createColours(range, section.midpoint);
  const format = cellFormat(value.format, range);
  const exact = (number: number) => (value.format === "percent" ? `${round(number * 100)}%` : formatValue(number));

  const longest = (labels: readonly string[]) =>
    Math.max(1, ...labels.map((label) => [...label].length)) * LABEL_PIXELS;
  const left = Math.min(120, longest([...rows, section.rowLabel ?? ""])) + 10;
  const cellWidth = Math.min(84, Math.max(38, longest(columns) + 10, longest(range.map(format)) + 10));
  const top = section.columnLabel === undefined ? 20 : 34;
  const size = { width: Math.ceil(left + cellWidth * columns.length + 2), height: top + CELL_HEIGHT * rows.length + 2 };

  const figures = panels.map((panel) => {
    const cells = rows.flatMap((row, i) =>
      columns.map((column, j) => {
        const number = panel.values[i]?.[j] ?? Number.NaN;
        if (!Number.isFinite(number)) return html``;
        const { fill, strong } = colours(number);
        const x = round(left + j * cellWidth);
        const y = top + i * CELL_HEIGHT;
        const tip = [panel.title, row, column].filter((part) => part !== undefined).join(" · ");
        return html`<rect class="cell" style="fill:${new Markup(fill)}" data-tip="${tip}: ${exact(number)}" x="${x + 1}" y="${y + 1}" width="${round(cellWidth - 2)}" height="${CELL_HEIGHT - 2}" rx="2"/><text class="${strong ? "cell-value strong" : "cell-value"}" x="${round(x + cellWidth / 2)}" y="${y + CELL_HEIGHT / 2}" dy="0.35em" text-anchor="middle">${format(number)}</text>`;
      }),
    );
    const rowLabels = rows.map(
      (row, i) =>
        html`<text class="category" x="${left - 8}" y="${top + (i + 0.5) * CELL_HEIGHT}" dy="0.33em" text-anchor="end">${truncate(row, left - 6)}</text>`,
    );
    const columnLabels = columns.map(
      (column, j) =>
        html`<text class="category" x="${round(left + (j + 0.5) * cellWidth)}" y="${top - 6}" text-anchor="middle">${truncate(column, cellWidth)}</text>`,
    );
    const corner =
      section.columnLabel === undefined
        ? undefined
        : html`<text class="axis-label" x="${left}" y="11">${section.columnLabel}</text>`;
    const rowTitle =
      section.rowLabel === undefined
        ? undefined
        : html`<text class="axis-label" x="${left - 8}" y="${top - 6}" text-anchor="end">${section.rowLabel}</text>`;
    const label = `${panel.title ?? section.title ?? value.label}: ${value.label} of ${rows.length} rows by ${columns.length} columns`;
    const title = panel.title === undefined ? undefined : html`<figcaption>${panel.title}</figcaption>`;
    return html`<figure class="panel" style="max-width:${size.width}px">${title}${svg(size, label, html`${corner}${rowTitle}${rowLabels}${columnLabels}${cells}`)}</figure>`;
  });
  const columnWidth = size.width + PANEL_GAP;
  const room = section.width === "half" ? HALF_WIDTH : FULL_WIDTH;
  const rowsOfPanels = Math.ceil(panels.length / Math.max(1, Math.floor((room + PANEL_GAP) / columnWidth)));
  // Rows of equal length: four panels stand two by two, not three and one.
  const widest = Math.ceil(panels.length / rowsOfPanels) * columnWidth;
  return html`${colourKey(section, range, format)}<div class="panels" style="max-width:${widest}px">${figures}</div>`;
}

/** One number of decimals for all cells, three digits for the largest. */
function cellFormat(format: "number" | "percent" = "number", range: readonly [number, number]) {
  if (format === "percent") return (value: number) => `${Math.round(value * 100)}%`;
  const largest = Math.max(Math.abs(range[0]), Math.abs(range[1]));
  if (largest >= 1e4 || (largest < 1e-2 && largest > 0)) return formatValue;
  const decimals = Math.max(0, 2 - Math.floor(Math.log10(largest || 1)));
  return (value: number) => value.toFixed(decimals);
}

/** Fill of a value and whether text on it must be the light-on-dark kind. */
function createColours([low, high]: readonly [number, number], midpoint: number | undefined) {
  return (value: number): { fill: string; strong: boolean } => {
    if (midpoint === undefined) {
      const share = clamp((value - low) / (high - low || 1));
      return { fill: mix("var(--heat-low)", "var(--heat-high)", share), strong: share > 0.5 };
    }
    // One distance on both sides, so that equal colours are equally far from the midpoint.
    const reach = Math.max(high - midpoint, midpoint - low) || 1;
    const share = clamp(Math.abs(value - midpoint) / reach);
    const end = value < midpoint ? "var(--heat-below)" : "var(--heat-high)";
    return { fill: mix("var(--heat-middle)", end, share), strong: share > 0.6 };
  };
}

function mix(from: string, to: string, share: number): string {
  return `color-mix(in oklab, ${to} ${round(share * 100)}%, ${from})`;
}

function clamp(share: number): number {
  return Math.min(1, Math.max(0, share));
}

function colourKey(
  { value, midpoint }: HeatmapSection,
  [low, high]: readonly [number, number],
  format: (value: number) => string,
): Markup {
  const name = value.unit === undefined ? value.label : `${value.label} (${value.unit})`;
  if (midpoint === undefined) {
    return html`<div class="key"><span>${name}</span><span>${format(low)}</span><span class="ramp"></span><span>${format(high)}</span></div>`;
  }
  const reach = Math.max(high - midpoint, midpoint - low) || 1;
  // The scale is symmetric, but a share below zero does not exist: the key ends where values can.
  const from = Math.max(midpoint - reach, Math.min(low, 0));
  const middle = `${round(((midpoint - from) / (midpoint + reach - from)) * 100)}%`;
  const start = mix("var(--heat-middle)", "var(--heat-below)", clamp((midpoint - from) / reach));
  return html`<div class="key"><span>${name}</span><span>${format(from)}</span><span class="ramp diverging" style="--start:${new Markup(start)};--middle:${middle}"></span><span>${format(midpoint + reach)}</span><span class="key-note">neutral at ${format(midpoint)}</span></div>`;
}
