import { html, type Interpolated, Markup } from "./markup.js";
import type { Scale } from "./scales.js";
import type { Axis } from "./sections.js";

/** The area that values are drawn in, in the units of the SVG's view box. */
export interface Plot {
  readonly width: number;
  readonly height: number;
  readonly left: number;
  readonly right: number;
  readonly top: number;
  readonly bottom: number;
}

/** Inner widths of a section on a wide page, in pixels. */
export const FULL_WIDTH = 1078;
export const HALF_WIDTH = 510;

/** Series beyond the palette start it again with a dash. */
export const PALETTE_SIZE = 8;

/** @param below height of what stands under the plot: ticks or categories, and the axis's name */
export function createPlot(width: "half" | "full", below: number): Plot {
  const total = width === "full" ? FULL_WIDTH : HALF_WIDTH;
  const height = width === "full" ? 320 : 270;
  return { width: total, height, left: 50, right: total - 14, top: 24, bottom: height - below };
}

export function axisText({ label, unit }: Axis): string {
  return unit === undefined ? label : `${label} (${unit})`;
}

export function seriesColour(index: number): string {
  return `var(--series-${(index % PALETTE_SIZE) + 1})`;
}

export function dashOf(index: number): string | undefined {
  return index < PALETTE_SIZE ? undefined : "5 3";
}

/** Rounds a coordinate to a tenth of a pixel: nobody sees more, and files stay small. */
export function round(coordinate: number): number {
  return Math.round(coordinate * 10) / 10;
}

export function verticalAxis(plot: Plot, scale: Scale, axis: Axis): Markup {
  const lines = scale.ticks.map((tick) => {
    const y = round(scale(tick));
    return html`<line class="grid" x1="${plot.left}" x2="${plot.right}" y1="${y}" y2="${y}"/><text class="tick" x="${plot.left - 8}" y="${y}" dy="0.33em" text-anchor="end">${scale.format(tick)}</text>`;
  });
  return html`${lines}<text class="axis-label" x="2" y="10">${axisText(axis)}</text>`;
}

export function horizontalAxis(plot: Plot, scale: Scale, axis: Axis): Markup {
  const ticks = scale.ticks.map((tick) => {
    const x = round(scale(tick));
    return html`<line class="axis" x1="${x}" x2="${x}" y1="${plot.bottom}" y2="${plot.bottom + 4}"/><text class="tick" x="${x}" y="${plot.bottom + 16}" text-anchor="middle">${scale.format(tick)}</text>`;
  });
  return html`<line class="axis" x1="${plot.left}" x2="${plot.right}" y1="${plot.bottom}" y2="${plot.bottom}"/>${ticks}<text class="axis-label" x="${plot.right}" y="${plot.height - 4}" text-anchor="end">${axisText(axis)}</text>`;
}

export function svg(plot: Pick<Plot, "width" | "height">, label: string, content: Interpolated, id?: string): Markup {
  const name = id === undefined ? undefined : html` data-chart="${id}" tabindex="0"`;
  return html`<svg viewBox="0 0 ${plot.width} ${plot.height}" role="img" aria-label="${label}"${name}>${content}</svg>`;
}

/** Names beside their colours; none for a single series, which the title names. */
export function legend(names: readonly string[]): Markup | undefined {
  if (names.length < 2) return undefined;
  const items = names.map((name, i) => {
    const dashed = dashOf(i) === undefined ? "" : " dashed";
    return html`<li><span class="swatch${dashed}" style="--colour:${new Markup(seriesColour(i))}"></span>${name}</li>`;
  });
  return html`<ul class="legend">${items}</ul>`;
}

/** Cuts a label to about `width` pixels of 11-pixel text. */
export function truncate(label: string, width: number): string {
  const room = Math.max(1, Math.floor(width / 6.2));
  const characters = [...label];
  return characters.length <= room ? label : `${characters.slice(0, Math.max(1, room - 1)).join("")}…`;
}
