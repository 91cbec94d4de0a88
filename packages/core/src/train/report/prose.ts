import { legend, PALETTE_SIZE, round } from "./chart.js";
import { html, type Markup } from "./markup.js";
import { formatValue } from "./scales.js";
import type { NoteSection, TableColumn, TableSection, TextSection, TokensSection } from "./sections.js";

export function renderTable({ columns, rows }: TableSection): Markup {
  const numeric = columns.map((_, j) => rows.some((row) => typeof row[j] === "number"));
  const best = columns.map((column, j) =>
    bestOf(
      column,
      rows.map((row) => row[j]),
    ),
  );
  const cellClass = (j: number, value: unknown) =>
    [numeric[j] ? "number" : "", value !== undefined && value === best[j] ? "best" : ""].filter(Boolean).join(" ");
  const head = columns.map(({ label, unit }, j) => {
    const suffix = unit === undefined ? undefined : html` <span class="unit">${unit}</span>`;
    return html`<th scope="col" class="${cellClass(j, undefined)}">${label}${suffix}</th>`;
  });
  const body = rows.map((row) => {
    const cells = columns.map((_, j) => {
      const value = row[j] ?? null;
      const text = value === null ? "–" : typeof value === "number" ? formatValue(value) : value;
      return html`<td class="${cellClass(j, value)}">${text}</td>`;
    });
    return html`<tr>${cells}</tr>`;
  });
  return html`<div class="table"><table><thead><tr>${head}</tr></thead><tbody>${body}</tbody></table></div>`;
}

function bestOf({ best }: TableColumn, values: readonly unknown[]): number | undefined {
  const numbers = values.filter((value): value is number => typeof value === "number" && Number.isFinite(value));
  if (best === undefined || numbers.length < 2) return undefined;
  return numbers.reduce((a, b) => (best === "lowest" ? Math.min(a, b) : Math.max(a, b)));
}

export function renderText({ text, collapsed }: TextSection): Markup {
  const block = html`<pre>${text}</pre>`;
  return collapsed ? html`<details><summary>Show</summary>${block}</details>` : block;
}

export function renderNote({ text, tone = "info" }: NoteSection): Markup {
  const paragraphs = text.split(/\n\s*\n/).map((paragraph) => html`<p>${paragraph}</p>`);
  return html`<div class="note ${tone}">${paragraphs}</div>`;
}

/** Text with each token on the colour of its group; a line break is kept and shown. */
export function renderTokens({ groups, samples }: TokensSection): Markup {
  const blocks = samples.map(({ title, tokens }) => {
    const spans = tokens.map(({ text, group, weight = 1 }) => {
      const colour = (Math.max(0, group) % PALETTE_SIZE) + 1;
      const name = groups[group] ?? `group ${group}`;
      const tip = weight === 1 ? name : `${name}, ${round(weight * 100)}%`;
      const strength = round(6 + 30 * Math.min(1, Math.max(0, weight)));
      return html`<span class="token" style="--colour:var(--series-${colour});--strength:${strength}%" data-tip="${tip}">${text.replace(/\n/g, "↵\n")}</span>`;
    });
    const heading = title === undefined ? undefined : html`<h3>${title}</h3>`;
    return html`${heading}<div class="tokens">${spans}</div>`;
  });
  return html`${legend(groups)}${blocks}`;
}
