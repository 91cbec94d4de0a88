import { type HeatmapSection, type Section, terminalTable } from "@trefoil/core";
import type { DomainRouting, ModelScores } from "../stages/index.js";

/** Scores for the terminal: one row per model. */
export function scoresTable(scores: readonly ModelScores[]): string {
  const [domains, tasks] = namesIn(scores);
  const columns = ["bits per byte, held out", ...domains, "mean", ...tasks.map((task) => `${task} solved`)];
  const rows = scores.map(({ model, bitsPerByte, exactMatch }) => [
    model,
    ...domains.map((domain) => bitsPerByte[domain]!.toFixed(3)),
    meanOf(bitsPerByte).toFixed(3),
    ...tasks.map((task) => (exactMatch[task] == null ? null : `${(exactMatch[task] * 100).toFixed(1)} %`)),
  ]);
  return terminalTable({ columns, rows });
}

/** Domains and tasks that models were scored on. */
const namesIn = ([first]: readonly ModelScores[]) =>
  [Object.keys(first?.bitsPerByte ?? {}), Object.keys(first?.exactMatch ?? {})] as const;

export const meanOf = (values: Readonly<Record<string, number>>): number => {
  const all = Object.values(values);
  return all.reduce((a, b) => a + b, 0) / all.length;
};

/** The same for a report, as a table and as bars. */
export function scoresSections(scores: readonly ModelScores[]): Section[] {
  const [domains, tasks] = namesIn(scores);
  return [
    {
      kind: "table",
      title: "Held-out bits per byte",
      caption:
        "Lower is better. Solved: questions answered greedily after solved examples, the whole line right; a program is run. A dash: longer than the context.",
      columns: [
        { label: "model" },
        ...domains.map((label) => ({ label, unit: "bits/byte", best: "lowest" as const })),
        { label: "mean", unit: "bits/byte", best: "lowest" },
        ...tasks.map((task) => ({ label: `${task} solved`, unit: "%", best: "highest" as const })),
      ],
      rows: scores.map(({ model, bitsPerByte, exactMatch }) => [
        model,
        ...domains.map((domain) => bitsPerByte[domain]!),
        meanOf(bitsPerByte),
        ...tasks.map((task) => (exactMatch[task] == null ? null : exactMatch[task] * 100)),
      ]),
    },
    {
      kind: "bars",
      width: "full",
      title: "Bits per byte by domain",
      y: { label: "bits per byte" },
      categories: domains,
      series: scores.map(({ model, bitsPerByte }) => ({
        name: model,
        values: domains.map((domain) => bitsPerByte[domain]!),
      })),
    },
  ];
}

/** Routing as small heat maps, one per layer. @param experts names, where they are known */
export function routingSection(
  title: string,
  routing: readonly DomainRouting[],
  experts?: readonly string[],
): HeatmapSection {
  const layers = routing[0]?.share.length ?? 0;
  const count = routing[0]?.share[0]?.length ?? 0;
  return {
    kind: "heatmap",
    title,
    caption: "Share of the choices of each domain's held-out tokens. Neutral: every expert as often as any other.",
    rows: routing.map(({ domain }) => domain),
    columns: experts ?? Array.from({ length: count }, (_, e) => `expert ${e}`),
    rowLabel: "domain",
    columnLabel: "expert",
    panels: Array.from({ length: layers }, (_, layer) => ({
      title: `layer ${layer}`,
      values: routing.map(({ share }) => share[layer]!),
    })),
    value: { label: "share of choices", format: "percent" },
    range: [0, 1],
    midpoint: 1 / Math.max(1, count),
  };
}
