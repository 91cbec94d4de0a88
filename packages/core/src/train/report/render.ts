import { createHash } from "node:crypto";
import { replaceFile } from "../run-directory.js";
import { renderBars } from "./bars.js";
import { renderHeatmap } from "./heatmap.js";
import { renderImages } from "./images.js";
import { renderLines } from "./lines.js";
import { html, Markup } from "./markup.js";
import { renderNote, renderTable, renderText, renderTokens } from "./prose.js";
import { formatValue } from "./scales.js";
import { SCRIPT } from "./script.js";
import type { Fact, Report, Section } from "./sections.js";
import { CSS } from "./theme.js";

/**
 * Renders a report as one HTML page that needs no other file and no network. Everything given is escaped, and the
 * page's own policy lets no script run but ours. The same report gives the same bytes.
 */
export function renderReport({ title, subtitle, facts = [], sections }: Report): string {
  const scriptHash = createHash("sha256").update(SCRIPT).digest("base64");
  const policy = `default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src 'sha256-${scriptHash}'`;
  const sub = subtitle === undefined ? undefined : html`<p class="subtitle">${subtitle}</p>`;
  const head = facts.length === 0 ? undefined : html`<dl class="facts">${facts.map(renderFact)}</dl>`;
  const page = html`<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="${policy}">
<title>${title}</title>
<style>${new Markup(CSS)}</style>
</head>
<body>
<main>
<header><h1>${title}</h1>${sub}${head}</header>
<div class="sections">
${sections.map(renderSection)}</div>
</main>
<div id="tooltip" role="status" hidden></div>
<script>${new Markup(SCRIPT)}</script>
</body>
</html>
`;
  return page.text;
}

/** Renders a report and writes it to `path`, whole or not at all. */
export async function writeReport(path: string, report: Report): Promise<void> {
  await replaceFile(path, renderReport(report));
}

function renderFact({ label, value, unit }: Fact): Markup {
  const text = typeof value === "number" ? formatValue(value) : value;
  const suffix = unit === undefined ? undefined : html` <span class="unit">${unit}</span>`;
  return html`<div><dt>${label}</dt><dd>${text}${suffix}</dd></div>`;
}

function renderSection(section: Section, index: number): Markup {
  const isChart = section.kind === "lines" || section.kind === "bars";
  const width = section.width ?? (isChart ? "half" : "full");
  const title = section.title === undefined ? undefined : html`<h2>${section.title}</h2>`;
  const caption = section.caption === undefined ? undefined : html`<p class="caption">${section.caption}</p>`;
  const head =
    title === undefined && caption === undefined ? undefined : html`<div class="section-head">${title}${caption}</div>`;
  return html`<section class="${width} ${section.kind}-section">${head}${renderBody(section, `data-${index}`)}</section>
`;
}

function renderBody(section: Section, id: string): Markup {
  switch (section.kind) {
    case "lines":
      return renderLines(section, id);
    case "bars":
      return renderBars(section);
    case "heatmap":
      return renderHeatmap(section);
    case "table":
      return renderTable(section);
    case "text":
      return renderText(section);
    case "tokens":
      return renderTokens(section);
    case "images":
      return renderImages(section);
    case "note":
      return renderNote(section);
  }
}
