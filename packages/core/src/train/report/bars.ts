import { axisText, createPlot, legend, round, seriesColour, svg, truncate, verticalAxis } from "./chart.js";
import { html, Markup } from "./markup.js";
import { extent, formatValue, linearScale, roundStep } from "./scales.js";
import type { BarsSection } from "./sections.js";

/** Grouped bars from zero: a group for each category, a bar for each series. */
export function renderBars(section: BarsSection): Markup {
  const plot = createPlot(section.width ?? "half", 24);
  const { categories, series, y: axis } = section;
  const values = series.flatMap((one) => one.values.filter((value) => value !== null));
  const range = extent([0, ...values]);
  if (range === undefined || values.length === 0 || categories.length === 0) {
    return html`<p class="empty">No values to draw.</p>`;
  }
  const scale = linearScale(roundOutwards(range), [plot.bottom, plot.top], 5);
  const groupWidth = (plot.right - plot.left) / categories.length;
  const barWidth = Math.min(44, (groupWidth * 0.8) / series.length);
  const zero = scale(0);

  const groups = categories.map((category, i) => {
    const start = plot.left + groupWidth * (i + 0.5) - (barWidth * series.length) / 2;
    const bars = series.map(({ name, values: column }, j) => {
      const value = column[i];
      if (value === null || value === undefined || !Number.isFinite(value)) return html``;
      const end = scale(value);
      const x = start + j * barWidth;
      const text = formatValue(value);
      const tip = series.length > 1 ? `${category} · ${name}: ${text}` : `${category}: ${text}`;
      // Digits are about 6 pixels wide at this size; a label wider than its bar would run into the next.
      const fits = text.length * 5.6 <= Math.max(barWidth, series.length === 1 ? groupWidth : 0);
      const label = fits
        ? html`<text class="value" x="${round(x + barWidth / 2)}" y="${round(value < 0 ? end + 11 : end - 4)}" text-anchor="middle">${text}</text>`
        : undefined;
      return html`<rect class="bar" style="fill:${new Markup(seriesColour(j))}" data-tip="${tip}" x="${round(x + 1)}" y="${round(Math.min(zero, end))}" width="${round(Math.max(1, barWidth - 2))}" height="${round(Math.max(0.5, Math.abs(end - zero)))}" rx="1.5"/>${label}`;
    });
    const middle = round(plot.left + groupWidth * (i + 0.5));
    const name = truncate(category, groupWidth - 4);
    return html`${bars}<text class="category" x="${middle}" y="${plot.bottom + 17}" text-anchor="middle" data-tip="${category}">${name}</text>`;
  });
  const baseline = html`<line class="axis" x1="${plot.left}" x2="${plot.right}" y1="${round(zero)}" y2="${round(zero)}"/>`;
  const names = series.map(({ name }) => name);
  const label = `${section.title ?? axisText(axis)}: ${names.join(", ")} for ${categories.join(", ")}`;
  const content = html`${verticalAxis(plot, scale, axis)}${groups}${baseline}`;
  return html`${legend(names)}<div class="chart">${svg(plot, label, content)}</div>`;
}

/** Room for the labels above the bars, ending on a tick. */
function roundOutwards([low, high]: [number, number]): [number, number] {
  const step = roundStep((high - low || 1) / 5);
  return [Math.floor(low / step) * step, Math.ceil((high + 0.04 * (high - low)) / step) * step];
}
