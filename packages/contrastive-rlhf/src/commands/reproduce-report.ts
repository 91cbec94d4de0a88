import { markdownTable, type Section, type TableSection } from "@trefoil/core";
import { mean } from "../algorithm/index.js";
import {
  type ArmSummary,
  allCells,
  cellName,
  type ExperimentSettings,
  type Finding,
  type ResultRow,
  type TuningPoint,
} from "../experiment/index.js";

export interface ExperimentResult {
  arms: readonly ArmSummary[];
  /** Of the headline arm, by cell. */
  holmP: Readonly<Record<string, number>>;
  falsifiers: readonly Finding[];
  claims: readonly Finding[];
  settings: ExperimentSettings;
  completed: boolean;
  /** That have results. */
  seeds: number;
}

const words: Record<Finding["holds"], string> = {
  yes: "holds",
  no: "does not hold",
  partly: "partly",
  "not shown": "not shown",
  open: "open",
};

export const findingText = ({ statement, holds, evidence }: Finding): string =>
  `${words[holds].padEnd(13)}  ${statement} (${evidence})`;

/** The first section is the table of all arms. */
export function reportSections(result: ExperimentResult, rows: readonly ResultRow[]): [TableSection, ...Section[]] {
  const { settings } = result;
  return [
    armTable(result),
    findingTable("Claims that hold and do not hold at this scale", result.claims),
    findingTable("Falsifiers, stated before the run", result.falsifiers),
    splitTable(result),
    ...frontierSections(result, rows),
    { kind: "text", title: "Settings", text: JSON.stringify(settings, null, 2), collapsed: true },
  ];
}

function armTable({ arms, holmP, settings }: ExperimentResult): TableSection {
  const labels = [
    ...["cell", "arm", "seeds", "true quality", "minus PPO", "95 % from", "to", "sign-flip p", "Holm p"],
    ...["win", "tie", "lose", "win rate", "length", "length-matched", "KL", "at equal KL", "scored"],
    ...["ρ", "variance measured", "predicted", "broken"],
  ];
  return {
    kind: "table",
    title: "Arms, against PPO of the same seed",
    columns: labels.map((label) => ({ label })),
    rows: arms.map((row) => {
      const { difference: test, outcome } = row;
      const isHeadline = row.arm === `contrast k=${settings.headline}`;
      const share = (count: number | undefined) =>
        outcome && count !== undefined ? count / (outcome.win + outcome.tie + outcome.lose) : null;
      return [
        row.cell,
        row.arm,
        row.seeds,
        row.gold,
        ...(test ? [test.mean, test.interval[0], test.interval[1]] : [null, null, null]),
        row.signFlipP ?? null,
        (isHeadline ? holmP[row.cell] : undefined) ?? null,
        share(outcome?.win),
        share(outcome?.tie),
        share(outcome?.lose),
        outcome?.winRate ?? null,
        row.length,
        row.lengthMatched?.winRate ?? null,
        row.kl ?? null,
        row.matchedKl?.mean ?? null,
        Math.round(row.scored),
        row.rho ?? null,
        row.measuredVarianceRatio ?? null,
        row.predictedVarianceRatio ?? null,
        row.failures,
      ];
    }),
  };
}

const findingTable = (title: string, findings: readonly Finding[]): TableSection => ({
  kind: "table",
  title,
  columns: ["statement", "", "evidence"].map((label) => ({ label })),
  rows: findings.map(({ statement, holds, evidence }) => [statement, words[holds], evidence]),
});

function splitTable({ arms, settings }: ExperimentResult): TableSection {
  const labels = ["cell", "low half", "95 % from", "to", "high half", "95 % from", "to"];
  return {
    kind: "table",
    title: `Contrast k=${settings.headline} minus PPO, by offline reward of the prompt`,
    columns: labels.map((label) => ({ label })),
    rows: arms.flatMap(({ cell, arm, low, high }) =>
      arm === `contrast k=${settings.headline}` && low && high
        ? [[cell, low.mean, ...low.interval, high.mean, ...high.interval]]
        : [],
    ),
  };
}

/** True quality against √KL in training, means over seeds. */
function frontierSections({ settings }: ExperimentResult, rows: readonly ResultRow[]): Section[] {
  const shown = ["PPO", `contrast k=${settings.headline}`, "RLOO"];
  return allCells(settings).flatMap((cell): Section[] => {
    const series = shown.flatMap((arm) => {
      const runs = rows.flatMap((row) => (row.cell === cellName(cell) && row.arm === arm ? [row.frontier ?? []] : []));
      const length = Math.min(...runs.map((points) => points.length));
      if (runs.length === 0 || length === 0) return [];
      const at = (part: 0 | 1) => Array.from({ length }, (_, i) => mean(runs.map((points) => points[i]![part])));
      return [{ name: arm, x: at(0).map((kl) => Math.sqrt(Math.max(0, kl))), y: at(1) }];
    });
    if (series.length === 0) return [];
    const title = `Quality against KL: ${cellName(cell)}`;
    return [{ kind: "lines", title, x: { label: "√KL", unit: "√nats" }, y: { label: "true quality" }, series }];
  });
}

export const tuningTable = (points: readonly TuningPoint[]): TableSection => ({
  kind: "table",
  title: "Plain PPO, mean true quality over tuning cells and seeds",
  columns: ["learning rate", "β", "true quality"].map((label) => ({ label })),
  rows: points.map(({ learningRate, klCoefficient, gold }) => [String(learningRate), String(klCoefficient), gold]),
});

/** The tables of the report as Markdown. */
export function markdownReport(result: ExperimentResult): string {
  const { settings, completed, seeds } = result;
  const done = completed
    ? `All arms of ${settings.seeds} seeds.`
    : `Not complete: ${seeds} of ${settings.seeds} seeds have results.`;
  const tables = [
    findingTable("Claims", result.claims),
    findingTable("Falsifiers", result.falsifiers),
    armTable(result),
    splitTable(result),
  ];
  return `${done}\n\n${tables.map(markdownTable).join("\n\n")}\n`;
}
