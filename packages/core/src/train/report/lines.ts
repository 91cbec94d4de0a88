import {
  axisText,
  createPlot,
  dashOf,
  horizontalAxis,
  legend,
  type Plot,
  round,
  seriesColour,
  svg,
  verticalAxis,
} from "./chart.js";
import { html, jsonScript, Markup } from "./markup.js";
import { extent, formatValue, linearScale, logScale, type Scale } from "./scales.js";
import type { Axis, LineSeries, LinesSection } from "./sections.js";

/** Points beyond this are thinned to the lowest and highest of each column of pixels, so that no spike is lost. */
const MAXIMUM_POINTS = 1200;

interface Point {
  readonly x: number;
  /** Value drawn, after smoothing; NaN interrupts the line. */
  readonly y: number;
  readonly raw: number;
}

/** A line chart; `id` ties it to the data of its tooltips. */
export function renderLines(section: LinesSection, id: string): Markup {
  const plot = createPlot(section.width ?? "half", 38);
  const { x: xAxis, y: yAxis } = section;
  const drawn = section.series.map((series) => pointsOf(series, xAxis, yAxis));
  const xs = extent(drawn.flatMap((points) => points.map(({ x }) => x)));
  const ys = extent(drawn.flatMap((points) => points.flatMap(({ y, raw }) => [y, raw])));
  if (xs === undefined || ys === undefined) return html`<p class="empty">No finite values to draw.</p>`;

  const x = createScale(xAxis, xs, [plot.left, plot.right], plot.width / 75);
  const y = createScale(yAxis, pad(ys, yAxis), [plot.bottom, plot.top], 6);
  const thinned = drawn.map((points) => thin(points, x));
  const paths = section.series.map((series, i) => drawSeries(series, thinned[i] as Point[], i, x, y));
  const cursor = html`<g class="cursor" visibility="hidden"><line y1="${plot.top}" y2="${plot.bottom}"/></g>`;
  const content = html`${verticalAxis(plot, y, yAxis)}${horizontalAxis(plot, x, xAxis)}${paths}${cursor}`;
  const names = section.series.map(({ name }) => name);
  const label = `${section.title ?? axisText(yAxis)}: ${names.join(", ")} over ${axisText(xAxis)}`;
  return html`${legend(names)}<div class="chart">${svg(plot, label, content, id)}</div>${tooltipData(section, thinned, plot, x, y, id)}`;
}

function pointsOf(series: LineSeries, xAxis: Axis, yAxis: Axis): Point[] {
  const points: Point[] = [];
  const { smooth = 0 } = series;
  let average = 0;
  // Adam's bias correction: without it the curve would start at zero.
  let weight = 0;
  for (let i = 0; i < Math.min(series.x.length, series.y.length); i++) {
    const x = series.x[i] as number;
    const value = series.y[i] as number;
    const drawable = Number.isFinite(value) && (yAxis.scale !== "log" || value > 0);
    const raw = drawable ? value : Number.NaN;
    if (!Number.isFinite(x) || (xAxis.scale === "log" && x <= 0)) continue;
    if (drawable) {
      average = smooth * average + (1 - smooth) * value;
      weight = smooth * weight + (1 - smooth);
    }
    points.push({ x, y: drawable ? average / weight : Number.NaN, raw });
  }
  return points;
}

function createScale(axis: Axis, domain: [number, number], range: [number, number], ticks: number): Scale {
  return axis.scale === "log" ? logScale(domain, range, ticks) : linearScale(domain, range, ticks);
}

function pad([low, high]: [number, number], axis: Axis): [number, number] {
  if (axis.scale === "log") return [low / (high / low) ** 0.04, high * (high / low) ** 0.04];
  const margin = (high - low) * 0.06;
  // A positive quantity close to zero is shown from zero.
  const floor = low >= 0 && low - margin <= (high - low) * 0.25 ? 0 : low - margin;
  return [floor, high + margin];
}

function thin(points: readonly Point[], x: Scale): Point[] {
  if (points.length <= MAXIMUM_POINTS) return [...points];
  const kept: Point[] = [];
  for (let start = 0; start < points.length; ) {
    const column = Math.round(x((points[start] as Point).x));
    let end = start;
    let lowest = start;
    let highest = start;
    for (; end < points.length && Math.round(x((points[end] as Point).x)) === column; end++) {
      // Negated comparisons: a NaN at the start must not hide the values after it.
      if (!((points[end] as Point).raw >= (points[lowest] as Point).raw)) lowest = end;
      if (!((points[end] as Point).raw <= (points[highest] as Point).raw)) highest = end;
    }
    for (const i of [...new Set([start, lowest, highest, end - 1])].sort((a, b) => a - b))
      kept.push(points[i] as Point);
    start = end;
  }
  return kept;
}

function drawSeries(series: LineSeries, points: readonly Point[], index: number, x: Scale, y: Scale): Markup {
  const colour = new Markup(seriesColour(index));
  const faint =
    (series.smooth ?? 0) > 0
      ? html`<path class="line faint" style="stroke:${colour}" d="${pathOf(points, x, y, "raw")}"/>`
      : undefined;
  const dash = dashOf(index);
  const dashed = dash === undefined ? undefined : html` stroke-dasharray="${dash}"`;
  // A single point makes no line.
  const finite = points.filter((point) => Number.isFinite(point.y));
  const only = finite.length === 1 ? finite[0] : undefined;
  const dot =
    only === undefined
      ? undefined
      : html`<circle r="3" style="fill:${colour}" cx="${round(x(only.x))}" cy="${round(y(only.y))}"/>`;
  return html`${faint}<path class="line" style="stroke:${colour}"${dashed} d="${pathOf(points, x, y, "y")}"/>${dot}`;
}

function pathOf(points: readonly Point[], x: Scale, y: Scale, value: "y" | "raw"): string {
  let path = "";
  let command = "M";
  for (const point of points) {
    if (Number.isFinite(point[value])) {
      path += `${command}${round(x(point.x))},${round(y(point[value]))}`;
      command = "L";
    } else {
      command = "M";
    }
  }
  return path;
}

/** Data of the tooltips, as `script.ts` reads it: positions with the texts to show there. */
function tooltipData(
  section: LinesSection,
  drawn: readonly (readonly Point[])[],
  plot: Plot,
  x: Scale,
  y: Scale,
  id: string,
): Markup {
  const series = section.series.map(({ name }, i) => {
    const points = (drawn[i] as readonly Point[]).filter((point) => Number.isFinite(point.y));
    return {
      name,
      colour: seriesColour(i),
      points: points.map((point) => {
        const position = [round(x(point.x)), round(y(point.y)), formatX(point.x), formatValue(point.y)];
        return point.raw === point.y ? position : [...position, formatValue(point.raw)];
      }),
    };
  });
  return jsonScript(id, { width: plot.width, x: section.x.label, series });
}

function formatX(x: number): string {
  return Number.isInteger(x) ? x.toLocaleString("en-US") : formatValue(x);
}
