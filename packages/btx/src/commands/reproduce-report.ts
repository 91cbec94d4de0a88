import { type Section, type TableSection, terminalTable } from "@trefoil/core";
import {
  type ArmSummary,
  armName,
  type ExperimentSettings,
  type Finding,
  finetuneShare,
  type ResultRow,
  type TimeSpent,
} from "../experiment/index.js";
import { routingSection } from "./scores.js";

export interface ReproduceResult {
  arms: readonly ArmSummary[];
  findings: readonly Finding[];
  settings: ExperimentSettings;
  completed: boolean;
  /** Unknown of results of older versions. */
  spent?: TimeSpent;
}

const about =
  "Bits per byte of the second half of held-out windows, given the first; means over seeds, lower is better. Difference to dense continued training at equal FLOPs with its 95 % interval of paired seeds. Forgetting: change of prose against the seed. Specialisation: how much the choice of an expert says of the domain, 0 to 1. Tokens, FLOPs (6 × active parameters × tokens) and CPU seconds after the seed; ensembles pay for every member again at inference.";

function armTable({ arms }: ReproduceResult): TableSection {
  const domains = Object.keys(arms[0]?.bitsPerByte ?? {});
  const labels = [
    ...[
      "arm",
      "seeds",
      ...domains,
      "mean",
      "switching",
      "minus dense",
      "from",
      "to",
      "forgetting",
      "arithmetic solved",
    ],
    ...["specialisation", "M tokens", "TFLOP", "seconds"],
  ];
  return {
    kind: "table",
    title: "All arms",
    caption: about,
    columns: labels.map((label) =>
      label === "mean" || label === "switching" ? { label, best: "lowest" as const } : { label },
    ),
    rows: arms.map((arm) => [
      arm.arm,
      arm.seeds,
      ...domains.map((domain) => arm.bitsPerByte[domain]!),
      arm.mean,
      arm.switching,
      ...(arm.againstDense ? [arm.againstDense.mean, ...arm.againstDense.interval] : [null, null, null]),
      arm.forgetting,
      arm.exactMatch ?? null,
      arm.specialisation ?? null,
      arm.tokens / 1e6,
      arm.flops / 1e12,
      arm.seconds,
    ]),
  };
}

const findingTable = ({ findings }: ReproduceResult): TableSection => ({
  kind: "table",
  title: "Expectations, stated before the run",
  caption: "Not shown: the 95 % interval of paired differences, bits per byte, includes the bound.",
  columns: ["statement", "holds", "difference"].map((label) => ({ label })),
  rows: findings.map(({ statement, holds, evidence }) => [statement, holds, evidence]),
});

/** Score by share of the compute that finetuning takes; 0 is the plain average, 1 sparse upcycling. */
export function sweepPoints({ arms, settings }: ReproduceResult): { share: number; arm: ArmSummary }[] {
  const of = (name: string) => arms.find(({ arm }) => arm === name);
  const mixture = { kind: "mixture", regime: "levers", variant: "top-2" } as const;
  return [
    { share: 0, arm: of(armName({ kind: "average", regime: "levers" })) },
    ...settings.shares.map((share) => ({ share, arm: of(armName({ ...mixture, share })) })),
    { share: finetuneShare.levers, arm: of(armName(mixture)) },
    { share: 1, arm: of(armName({ kind: "upcycled", match: "FLOPs" })) },
  ]
    .flatMap(({ share, arm }) => (arm ? [{ share, arm }] : []))
    .sort((a, b) => a.share - b.share);
}

function sweepSection(result: ReproduceResult): Section[] {
  const points = sweepPoints(result);
  const x = points.map(({ share }) => share);
  return [
    {
      kind: "lines",
      title: "Share of the compute in finetuning, at equal FLOPs",
      caption:
        "At 0 the plain average of the branches, whose compute is smaller by the finetuning of the regime; at 1 sparse upcycling.",
      x: { label: "share of FLOPs after the seed" },
      y: { label: "bits per byte" },
      series: [
        { name: "one domain", x, y: points.map(({ arm }) => arm.mean) },
        { name: "switching", x, y: points.map(({ arm }) => arm.switching) },
      ],
    },
  ];
}

export function reproduceSections(result: ReproduceResult, rows: readonly ResultRow[]): Section[] {
  const shown = result.arms.filter(({ arm }) => !arm.startsWith("expert"));
  const routed = rows.find(
    ({ arm, seed }) => seed === 1 && arm === armName({ kind: "mixture", regime: "levers", variant: "top-2" }),
  );
  return [
    armTable(result),
    findingTable(result),
    {
      kind: "bars",
      width: "full",
      title: "Bits per byte",
      y: { label: "bits per byte" },
      categories: ["one domain", "switching"],
      series: shown.map(({ arm, mean, switching }) => ({ name: arm, values: [mean, switching] })),
    },
    ...sweepSection(result),
    ...(routed?.routing
      ? [routingSection("Routing, levers, seed 1", routed.routing, ["code", "prose", "arithmetic", "seed"])]
      : []),
    { kind: "text", title: "Settings", text: JSON.stringify(result.settings, null, 2), collapsed: true },
  ];
}

/** For the terminal. */
export const resultsTable = (result: ReproduceResult): string =>
  [armTable(result), findingTable(result)].map((table) => terminalTable(table)).join("\n");
